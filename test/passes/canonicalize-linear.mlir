// RUN: sparseflow-opt %s --canonicalize-linear | FileCheck %s
// RUN: sparseflow-opt %s --canonicalize-linear --canonicalize-linear | FileCheck %s

// CHECK-LABEL: func.func @mm_of_a_transpose
func.func @mm_of_a_transpose(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,32],f32> {
  // CHECK-NEXT: %[[W:.*]] = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  // CHECK-NEXT: %[[B:.*]] = torch.constant.none
  // CHECK-NEXT: %[[Y:.*]] = torch.aten.linear %arg0, %[[W]], %[[B]] : !torch.vtensor<[?,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[?,32],f32>
  // CHECK-NEXT: return %[[Y]]
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %t = torch.aten.t %w : !torch.vtensor<[32,64],f32> -> !torch.vtensor<[64,32],f32>
  %y = torch.aten.mm %x, %t : !torch.vtensor<[?,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[?,32],f32>
  return %y : !torch.vtensor<[?,32],f32>
}

// CHECK-LABEL: func.func @every_way_to_transpose
func.func @every_way_to_transpose(%x: !torch.vtensor<[4,64],f32>) {
  %w0 = "sparse_gemm.weight"() {name = "w0"} : () -> !torch.vtensor<[32,64],f32>
  %w1 = "sparse_gemm.weight"() {name = "w1"} : () -> !torch.vtensor<[32,64],f32>
  %w2 = "sparse_gemm.weight"() {name = "w2"} : () -> !torch.vtensor<[32,64],f32>
  %w3 = "sparse_gemm.weight"() {name = "w3"} : () -> !torch.vtensor<[32,64],f32>
  %i0 = torch.constant.int 0
  %i1 = torch.constant.int 1
  %m1 = torch.constant.int -1
  %m2 = torch.constant.int -2
  %dims = torch.prim.ListConstruct %m1, %i0 : (!torch.int, !torch.int) -> !torch.list<int>
  %t0 = torch.aten.transpose.int %w0, %i0, %i1 : !torch.vtensor<[32,64],f32>, !torch.int, !torch.int -> !torch.vtensor<[64,32],f32>
  %t1 = torch.aten.transpose.int %w1, %m1, %m2 : !torch.vtensor<[32,64],f32>, !torch.int, !torch.int -> !torch.vtensor<[64,32],f32>
  %t2 = torch.aten.permute %w2, %dims : !torch.vtensor<[32,64],f32>, !torch.list<int> -> !torch.vtensor<[64,32],f32>
  %t3 = torch.aten.numpy_T %w3 : !torch.vtensor<[32,64],f32> -> !torch.vtensor<[64,32],f32>
  // CHECK-NOT: torch.aten.{{mm|matmul|transpose|permute|numpy_T}}
  // CHECK-COUNT-4: torch.aten.linear %arg0, %{{.*}} : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>
  // CHECK-NOT: torch.aten.{{mm|matmul|transpose|permute|numpy_T}}
  // CHECK: return
  %y0 = torch.aten.mm %x, %t0 : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[4,32],f32>
  %y1 = torch.aten.matmul %x, %t1 : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[4,32],f32>
  %y2 = torch.aten.matmul %x, %t2 : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[4,32],f32>
  %y3 = torch.aten.mm %x, %t3 : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[4,32],f32>
  return
}

// A permutation that changes nothing, and two transposes that undo each other.
// CHECK-LABEL: func.func @transposes_that_cancel
func.func @transposes_that_cancel(%x: !torch.vtensor<[4,64],f32>) -> !torch.vtensor<[4,64],f32> {
  // CHECK: %[[W:.*]] = "sparse_gemm.weight"() {name = "square"}
  // CHECK: torch.aten.linear %arg0, %[[W]]
  %w = "sparse_gemm.weight"() {name = "square"} : () -> !torch.vtensor<[64,64],f32>
  %t = torch.aten.t %w : !torch.vtensor<[64,64],f32> -> !torch.vtensor<[64,64],f32>
  %tt = torch.aten.numpy_T %t : !torch.vtensor<[64,64],f32> -> !torch.vtensor<[64,64],f32>
  %ttt = torch.aten.t %tt : !torch.vtensor<[64,64],f32> -> !torch.vtensor<[64,64],f32>
  %y = torch.aten.mm %x, %ttt : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,64],f32> -> !torch.vtensor<[4,64],f32>
  return %y : !torch.vtensor<[4,64],f32>
}

// GPT-2's Conv1D stores [K, N]: the reference is marked.
// CHECK-LABEL: func.func @conv1d
func.func @conv1d(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,32],f32> {
  // CHECK: %[[B:.*]] = "sparse_gemm.weight"() {name = "b"}
  // CHECK: %[[W:.*]] = "sparse_gemm.weight"() {name = "w", sparse_gemm.dense = "not 2:4", transposed} : () -> !torch.vtensor<[32,64],f32>
  // CHECK: torch.aten.linear %arg0, %[[W]], %[[B]]
  %w = "sparse_gemm.weight"() {name = "w", sparse_gemm.dense = "not 2:4"} : () -> !torch.vtensor<[64,32],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32],f32>
  %one = torch.constant.int 1
  %y = torch.aten.addmm %b, %x, %w, %one, %one : !torch.vtensor<[32],f32>, !torch.vtensor<[?,64],f32>, !torch.vtensor<[64,32],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,32],f32>
  return %y : !torch.vtensor<[?,32],f32>
}

// A marked reference that is read the other way round loses its mark.
// CHECK-LABEL: func.func @linear_over_a_transpose_of_a_marked_weight
func.func @linear_over_a_transpose_of_a_marked_weight(%x: !torch.vtensor<[2,64],f32>) -> !torch.vtensor<[2,32],f32> {
  // CHECK: %[[W:.*]] = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  // CHECK: torch.aten.linear %arg0, %[[W]]
  %w = "sparse_gemm.weight"() {name = "w", transposed} : () -> !torch.vtensor<[64,32],f32>
  %t = torch.aten.t %w : !torch.vtensor<[64,32],f32> -> !torch.vtensor<[32,64],f32>
  %none = torch.constant.none
  %y = torch.aten.linear %x, %t, %none : !torch.vtensor<[2,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[2,32],f32>
  return %y : !torch.vtensor<[2,32],f32>
}

// CHECK-LABEL: func.func @matmul_of_more_dims
func.func @matmul_of_more_dims(%x: !torch.vtensor<[?,?,7,64],bf16>, %v: !torch.vtensor<[64],bf16>) -> (!torch.vtensor<[?,?,7,32],bf16>, !torch.vtensor<[32],bf16>) {
  // CHECK: torch.aten.linear %arg0, %{{.*}} -> !torch.vtensor<[?,?,7,32],bf16>
  // CHECK: torch.aten.linear %arg1, %{{.*}} -> !torch.vtensor<[32],bf16>
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],bf16>
  %y = torch.aten.matmul %x, %w : !torch.vtensor<[?,?,7,64],bf16>, !torch.vtensor<[64,32],bf16> -> !torch.vtensor<[?,?,7,32],bf16>
  %z = torch.aten.matmul %v, %w : !torch.vtensor<[64],bf16>, !torch.vtensor<[64,32],bf16> -> !torch.vtensor<[32],bf16>
  return %y, %z : !torch.vtensor<[?,?,7,32],bf16>, !torch.vtensor<[32],bf16>
}

// CHECK-LABEL: func.func @bias_added_after
func.func @bias_added_after(%x: !torch.vtensor<[?,?,64],f32>) -> !torch.vtensor<[?,?,32],f32> {
  // CHECK: %[[B:.*]] = "sparse_gemm.weight"() {name = "b"}
  // CHECK: %[[Y:.*]] = torch.aten.linear %arg0, %{{.*}}, %[[B]]
  // CHECK-NEXT: return %[[Y]]
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32],f32>
  %one = torch.constant.int 1
  %y = torch.aten.matmul %x, %w : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[?,?,32],f32>
  %z = torch.aten.add.Tensor %b, %y, %one : !torch.vtensor<[32],f32>, !torch.vtensor<[?,?,32],f32>, !torch.int -> !torch.vtensor<[?,?,32],f32>
  return %z : !torch.vtensor<[?,?,32],f32>
}

// Canonical already: nothing is rewritten, the attribute stays.
// CHECK-LABEL: func.func @canonical
func.func @canonical(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,32],f32> {
  // CHECK-NEXT: %[[NONE:.*]] = torch.constant.none
  // CHECK-NEXT: %[[W:.*]] = "sparse_gemm.weight"() {name = "w"}
  // CHECK-NEXT: torch.aten.linear %arg0, %[[W]], %[[NONE]] {sparse_gemm.reason = "because"}
  %none = torch.constant.none
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = torch.aten.linear %x, %w, %none {sparse_gemm.reason = "because"} : !torch.vtensor<[?,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[?,32],f32>
  return %y : !torch.vtensor<[?,32],f32>
}
