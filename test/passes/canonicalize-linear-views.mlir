// RUN: sparseflow-opt %s --canonicalize-linear | FileCheck %s

// GPT-2's view(-1, K), addmm, view(..., N), static: both views go.
// CHECK-LABEL: func.func @static
func.func @static(%x: !torch.vtensor<[2,8,64],f32>) -> !torch.vtensor<[2,8,32],f32> {
  // CHECK-NOT: torch.aten.view
  // CHECK: %[[Y:.*]] = torch.aten.linear %arg0, %{{.*}} -> !torch.vtensor<[2,8,32],f32>
  // CHECK-NEXT: return %[[Y]]
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32],f32>
  %one = torch.constant.int 1
  %m1 = torch.constant.int -1
  %i2 = torch.constant.int 2
  %i8 = torch.constant.int 8
  %i32 = torch.constant.int 32
  %i64 = torch.constant.int 64
  %in = torch.prim.ListConstruct %m1, %i64 : (!torch.int, !torch.int) -> !torch.list<int>
  %flat = torch.aten.view %x, %in : !torch.vtensor<[2,8,64],f32>, !torch.list<int> -> !torch.vtensor<[16,64],f32>
  %y = torch.aten.addmm %b, %flat, %w, %one, %one : !torch.vtensor<[32],f32>, !torch.vtensor<[16,64],f32>, !torch.vtensor<[64,32],f32>, !torch.int, !torch.int -> !torch.vtensor<[16,32],f32>
  %out = torch.prim.ListConstruct %i2, %i8, %i32 : (!torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %z = torch.aten.view %y, %out : !torch.vtensor<[16,32],f32>, !torch.list<int> -> !torch.vtensor<[2,8,32],f32>
  return %z : !torch.vtensor<[2,8,32],f32>
}

// One dynamic size follows from the number of elements.
// CHECK-LABEL: func.func @one_dynamic_size
func.func @one_dynamic_size(%x: !torch.vtensor<[?,8,64],f32>, %s: !torch.int) -> !torch.vtensor<[?,8,32],f32> {
  // CHECK-NOT: torch.aten.{{view|reshape}}
  // CHECK: %[[Y:.*]] = torch.aten.linear %arg0, %{{.*}} -> !torch.vtensor<[?,8,32],f32>
  // CHECK-NEXT: return %[[Y]]
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],f32>
  %m1 = torch.constant.int -1
  %i8 = torch.constant.int 8
  %i32 = torch.constant.int 32
  %i64 = torch.constant.int 64
  %in = torch.prim.ListConstruct %m1, %i64 : (!torch.int, !torch.int) -> !torch.list<int>
  %flat = torch.aten.reshape %x, %in : !torch.vtensor<[?,8,64],f32>, !torch.list<int> -> !torch.vtensor<[?,64],f32>
  %y = torch.aten.mm %flat, %w : !torch.vtensor<[?,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[?,32],f32>
  %out = torch.prim.ListConstruct %s, %i8, %i32 : (!torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %z = torch.aten.view %y, %out : !torch.vtensor<[?,32],f32>, !torch.list<int> -> !torch.vtensor<[?,8,32],f32>
  return %z : !torch.vtensor<[?,8,32],f32>
}

// Two dynamic sizes that are the input's own.
// CHECK-LABEL: func.func @sizes_of_the_input
func.func @sizes_of_the_input(%x: !torch.vtensor<[?,?,64],f32>) -> !torch.vtensor<[?,?,32],f32> {
  // CHECK-NOT: torch.aten.{{view|flatten|size}}
  // CHECK: %[[Y:.*]] = torch.aten.linear %arg0, %{{.*}} -> !torch.vtensor<[?,?,32],f32>
  // CHECK-NEXT: return %[[Y]]
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],f32>
  %i0 = torch.constant.int 0
  %i1 = torch.constant.int 1
  %i32 = torch.constant.int 32
  %s0 = torch.aten.size.int %x, %i0 : !torch.vtensor<[?,?,64],f32>, !torch.int -> !torch.int
  %s1 = torch.aten.size.int %x, %i1 : !torch.vtensor<[?,?,64],f32>, !torch.int -> !torch.int
  %flat = torch.aten.flatten.using_ints %x, %i0, %i1 : !torch.vtensor<[?,?,64],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,64],f32>
  %y = torch.aten.mm %flat, %w : !torch.vtensor<[?,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[?,32],f32>
  %out = torch.prim.ListConstruct %s0, %s1, %i32 : (!torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %z = torch.aten._unsafe_view %y, %out : !torch.vtensor<[?,32],f32>, !torch.list<int> -> !torch.vtensor<[?,?,32],f32>
  return %z : !torch.vtensor<[?,?,32],f32>
}

// Two dynamic sizes from elsewhere might be exchanged: that view stays, the first one goes.
// CHECK-LABEL: func.func @sizes_from_elsewhere
func.func @sizes_from_elsewhere(%x: !torch.vtensor<[?,?,64],f32>, %s0: !torch.int, %s1: !torch.int) -> !torch.vtensor<[?,?,32],f32> {
  // CHECK: %[[Y:.*]] = torch.aten.linear %arg0, %{{.*}} -> !torch.vtensor<[?,?,32],f32>
  // CHECK: %[[SIZES:.*]] = torch.prim.ListConstruct %arg1, %arg2
  // CHECK: %[[Z:.*]] = torch.aten.view %[[Y]], %[[SIZES]] : !torch.vtensor<[?,?,32],f32>, !torch.list<int> -> !torch.vtensor<[?,?,32],f32>
  // CHECK-NEXT: return %[[Z]]
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],f32>
  %m1 = torch.constant.int -1
  %i32 = torch.constant.int 32
  %i64 = torch.constant.int 64
  %in = torch.prim.ListConstruct %m1, %i64 : (!torch.int, !torch.int) -> !torch.list<int>
  %flat = torch.aten.view %x, %in : !torch.vtensor<[?,?,64],f32>, !torch.list<int> -> !torch.vtensor<[?,64],f32>
  %y = torch.aten.mm %flat, %w : !torch.vtensor<[?,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[?,32],f32>
  %out = torch.prim.ListConstruct %s0, %s1, %i32 : (!torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %z = torch.aten.view %y, %out : !torch.vtensor<[?,32],f32>, !torch.list<int> -> !torch.vtensor<[?,?,32],f32>
  return %z : !torch.vtensor<[?,?,32],f32>
}

// Readers of the flat result other than views get it flat.
// CHECK-LABEL: func.func @flat_result_is_read
func.func @flat_result_is_read(%x: !torch.vtensor<[2,8,64],f32>) -> (!torch.vtensor<[16,32],f32>, !torch.vtensor<[2,8,32],f32>) {
  // CHECK: %[[Y:.*]] = torch.aten.linear %arg0
  // CHECK: %[[FLAT:.*]] = torch.aten.view %[[Y]], %{{.*}} -> !torch.vtensor<[16,32],f32>
  // CHECK: %[[R:.*]] = torch.aten.relu %[[FLAT]]
  // CHECK-NEXT: return %[[R]], %[[Y]]
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],f32>
  %i2 = torch.constant.int 2
  %i8 = torch.constant.int 8
  %i16 = torch.constant.int 16
  %i32 = torch.constant.int 32
  %i64 = torch.constant.int 64
  %in = torch.prim.ListConstruct %i16, %i64 : (!torch.int, !torch.int) -> !torch.list<int>
  %flat = torch.aten.view %x, %in : !torch.vtensor<[2,8,64],f32>, !torch.list<int> -> !torch.vtensor<[16,64],f32>
  %y = torch.aten.mm %flat, %w : !torch.vtensor<[16,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[16,32],f32>
  %r = torch.aten.relu %y : !torch.vtensor<[16,32],f32> -> !torch.vtensor<[16,32],f32>
  %out = torch.prim.ListConstruct %i2, %i8, %i32 : (!torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %z = torch.aten.view %y, %out : !torch.vtensor<[16,32],f32>, !torch.list<int> -> !torch.vtensor<[2,8,32],f32>
  return %r, %z : !torch.vtensor<[16,32],f32>, !torch.vtensor<[2,8,32],f32>
}

// The reason of a layer stays with it.
// CHECK-LABEL: func.func @reasoned
func.func @reasoned(%x: !torch.vtensor<[2,8,64],f32>) -> !torch.vtensor<[16,32],f32> {
  // CHECK: torch.aten.linear %arg0, %{{.*}} {sparse_gemm.reason = "skipped"} : {{.*}} -> !torch.vtensor<[2,8,32],f32>
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %none = torch.constant.none
  %m1 = torch.constant.int -1
  %i64 = torch.constant.int 64
  %in = torch.prim.ListConstruct %m1, %i64 : (!torch.int, !torch.int) -> !torch.list<int>
  %flat = torch.aten.view %x, %in : !torch.vtensor<[2,8,64],f32>, !torch.list<int> -> !torch.vtensor<[16,64],f32>
  %y = torch.aten.linear %flat, %w, %none {sparse_gemm.reason = "skipped"} : !torch.vtensor<[16,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[16,32],f32>
  return %y : !torch.vtensor<[16,32],f32>
}

// A view that cuts rows apart is no flattening.
// CHECK-LABEL: func.func @rows_cut_apart
func.func @rows_cut_apart(%x: !torch.vtensor<[2,8,64],f32>) -> !torch.vtensor<[32,16],f32> {
  // CHECK: %[[FLAT:.*]] = torch.aten.view %arg0, %{{.*}} -> !torch.vtensor<[32,32],f32>
  // CHECK: torch.aten.linear %[[FLAT]]
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,16],f32>
  %i32 = torch.constant.int 32
  %in = torch.prim.ListConstruct %i32, %i32 : (!torch.int, !torch.int) -> !torch.list<int>
  %flat = torch.aten.view %x, %in : !torch.vtensor<[2,8,64],f32>, !torch.list<int> -> !torch.vtensor<[32,32],f32>
  %y = torch.aten.mm %flat, %w : !torch.vtensor<[32,32],f32>, !torch.vtensor<[32,16],f32> -> !torch.vtensor<[32,16],f32>
  return %y : !torch.vtensor<[32,16],f32>
}
