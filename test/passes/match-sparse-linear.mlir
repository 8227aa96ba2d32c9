// RUN: sparseflow-opt %s --split-input-file --match-sparse-linear="skip=lm_head,vision.*" | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file --match-sparse-linear="skip=lm_head,vision.*" --match-sparse-linear | FileCheck %s

// CHECK-LABEL: func.func @plain
func.func @plain(%x: !torch.vtensor<[?,?,64],bf16>) -> !torch.vtensor<[?,?,32],bf16> {
  // CHECK-NEXT: %[[W:.*]] = "sparse_gemm.weight"() {name = "fc.weight"}
  // CHECK-NEXT: %[[Y:.*]] = "sparse_gemm.linear"(%arg0, %[[W]]) {epilogue = "none", format = "2:4", operandSegmentSizes = array<i32: 1, 1, 0, 0>, policy = ""} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[32,64],bf16>) -> !torch.vtensor<[?,?,32],bf16>
  // CHECK-NEXT: return %[[Y]]
  %w = "sparse_gemm.weight"() {name = "fc.weight"} : () -> !torch.vtensor<[32,64],bf16>
  %none = torch.constant.none
  %y = torch.aten.linear %x, %w, %none : !torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[32,64],bf16>, !torch.none -> !torch.vtensor<[?,?,32],bf16>
  return %y : !torch.vtensor<[?,?,32],bf16>
}

// -----

// The bias may be anything of shape [N]; the input's rank may be unknown.
// CHECK-LABEL: func.func @bias
func.func @bias(%x: !torch.vtensor<*,f16>, %b: !torch.vtensor<[32],f16>) -> !torch.vtensor<*,f16> {
  // CHECK: "sparse_gemm.linear"(%arg0, %{{.*}}, %arg1) {{.*}}operandSegmentSizes = array<i32: 1, 1, 1, 0>
  %w = "sparse_gemm.weight"() {name = "fc.weight"} : () -> !torch.vtensor<[32,64],f16>
  %y = torch.aten.linear %x, %w, %b : !torch.vtensor<*,f16>, !torch.vtensor<[32,64],f16>, !torch.vtensor<[32],f16> -> !torch.vtensor<*,f16>
  return %y : !torch.vtensor<*,f16>
}

// -----

// CHECK-LABEL: func.func @skipped
func.func @skipped(%x: !torch.vtensor<[4,64],f32>) {
  // CHECK-DAG: torch.aten.linear {{.*}} {sparse_gemm.reason = "skipped by the pattern 'lm_head'"}
  // CHECK-DAG: torch.aten.linear {{.*}} {sparse_gemm.reason = "skipped by the pattern 'vision.*'"}
  // CHECK-DAG: "sparse_gemm.linear"
  %none = torch.constant.none
  %w0 = "sparse_gemm.weight"() {name = "lm_head.weight"} : () -> !torch.vtensor<[32,64],f32>
  %w1 = "sparse_gemm.weight"() {name = "vision.blocks.0.fc.weight"} : () -> !torch.vtensor<[32,64],f32>
  %w2 = "sparse_gemm.weight"() {name = "not_lm_head.weight"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %w0, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  %1 = torch.aten.linear %x, %w1, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  %2 = torch.aten.linear %x, %w2, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  return
}

// -----

// Layers that share a weight become sparse together …
// CHECK-LABEL: func.func @shared
func.func @shared(%x: !torch.vtensor<[4,64],f32>, %z: !torch.vtensor<[9,64],f32>) {
  // CHECK-NOT: torch.aten.linear
  // CHECK-COUNT-2: "sparse_gemm.linear"
  // CHECK-NOT: torch.aten.linear
  // CHECK: return
  %none = torch.constant.none
  %w = "sparse_gemm.weight"() {name = "tied.weight"} : () -> !torch.vtensor<[32,64],f32>
  %again = "sparse_gemm.weight"() {name = "tied.weight"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %w, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  %1 = torch.aten.linear %z, %again, %none : !torch.vtensor<[9,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[9,32],f32>
  return
}

// -----

// … or not at all: lm_head reads the embedding's table, through a reference of its own.
// CHECK-LABEL: func.func @tied_to_an_embedding
func.func @tied_to_an_embedding(%ids: !torch.vtensor<[?,?],si64>) -> !torch.vtensor<[?,?,32],f32> {
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight 'embed.weight' is also read by torch.aten.embedding"}
  %none = torch.constant.none
  %int-1 = torch.constant.int -1
  %false = torch.constant.bool false
  %table = "sparse_gemm.weight"() {name = "embed.weight"} : () -> !torch.vtensor<[32,64],f32>
  %w = "sparse_gemm.weight"() {name = "embed.weight"} : () -> !torch.vtensor<[32,64],f32>
  %h = torch.aten.embedding %table, %ids, %int-1, %false, %false : !torch.vtensor<[32,64],f32>, !torch.vtensor<[?,?],si64>, !torch.int, !torch.bool, !torch.bool -> !torch.vtensor<[?,?,64],f32>
  %y = torch.aten.linear %h, %w, %none : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[?,?,32],f32>
  return %y : !torch.vtensor<[?,?,32],f32>
}

// -----

// A layer that stays takes along those that share a weight with it, in any order, through merged weights too.
// CHECK-LABEL: func.func @falls_with_another
func.func @falls_with_another(%x: !torch.vtensor<[4,64],f32>, %d: !torch.vtensor<[4,64],f64>) -> !torch.vtensor<[32,64],f32> {
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight 'b' is shared with a layer that stays dense"}
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight 'c' is also read by func.return"}
  %none = torch.constant.none
  %ab = "sparse_gemm.merged_weight"() {names = ["a", "b"]} : () -> !torch.vtensor<[64,64],f32>
  %bc = "sparse_gemm.merged_weight"() {names = ["b", "c"]} : () -> !torch.vtensor<[64,64],f32>
  %c = "sparse_gemm.weight"() {name = "c"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %ab, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,64],f32>, !torch.none -> !torch.vtensor<[4,64],f32>
  %1 = torch.aten.linear %x, %bc, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,64],f32>, !torch.none -> !torch.vtensor<[4,64],f32>
  return %c : !torch.vtensor<[32,64],f32>
}

// -----

// One packed form can't serve W and its transpose.
// CHECK-LABEL: func.func @read_both_ways
func.func @read_both_ways(%x: !torch.vtensor<[4,64],f32>) -> !torch.vtensor<[4,64],f32> {
  // CHECK-COUNT-2: {sparse_gemm.reason = "its weight 'auto' is read both as it is and transposed"}
  %none = torch.constant.none
  %w = "sparse_gemm.weight"() {name = "auto"} : () -> !torch.vtensor<[32,64],f32>
  %t = "sparse_gemm.weight"() {name = "auto", transposed} : () -> !torch.vtensor<[64,32],f32>
  %0 = torch.aten.linear %x, %w, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  %1 = torch.aten.linear %0, %t, %none : !torch.vtensor<[4,32],f32>, !torch.vtensor<[64,32],f32>, !torch.none -> !torch.vtensor<[4,64],f32>
  return %1 : !torch.vtensor<[4,64],f32>
}

// -----

// Being the input of a layer isn't being its weight.
// CHECK-LABEL: func.func @weight_as_input
func.func @weight_as_input(%x: !torch.vtensor<[4,64],f32>) {
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight 'w' is also read by torch.aten.linear"}
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight is computed at run time"}
  %none = torch.constant.none
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %w, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  %1 = torch.aten.linear %w, %x, %none : !torch.vtensor<[32,64],f32>, !torch.vtensor<[4,64],f32>, !torch.none -> !torch.vtensor<[32,4],f32>
  return
}

// -----

// Each reason that lies in one layer alone.
// CHECK-LABEL: func.func @alone
func.func @alone(%x: !torch.vtensor<[4,64],f32>, %d: !torch.vtensor<[4,64],f64>, %i: !torch.vtensor<[4,64],si64>, %k: !torch.vtensor<[4,12],f32>, %h: !torch.vtensor<[4,64],f16>) {
  %none = torch.constant.none
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "N = 8 is below min-n = 16"}
  %w0 = "sparse_gemm.weight"() {name = "router.weight"} : () -> !torch.vtensor<[8,64],f32>
  %0 = torch.aten.linear %x, %w0, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>, !torch.none -> !torch.vtensor<[4,8],f32>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "K = 12 is below min-k = 16"}
  %w1 = "sparse_gemm.weight"() {name = "w1"} : () -> !torch.vtensor<[32,12],f32>
  %1 = torch.aten.linear %k, %w1, %none : !torch.vtensor<[4,12],f32>, !torch.vtensor<[32,12],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight is f64; the sparse kernels multiply f32, f16, bf16"}
  %w2 = "sparse_gemm.weight"() {name = "w2"} : () -> !torch.vtensor<[32,64],f64>
  %2 = torch.aten.linear %d, %w2, %none : !torch.vtensor<[4,64],f64>, !torch.vtensor<[32,64],f64>, !torch.none -> !torch.vtensor<[4,32],f64>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight is si64; the sparse kernels multiply f32, f16, bf16"}
  %w3 = "sparse_gemm.weight"() {name = "w3"} : () -> !torch.vtensor<[32,64],si64>
  %3 = torch.aten.linear %i, %w3, %none : !torch.vtensor<[4,64],si64>, !torch.vtensor<[32,64],si64>, !torch.none -> !torch.vtensor<[4,32],si64>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "not 2:4: row 3, group 7"}
  %w4 = "sparse_gemm.weight"() {name = "w4", sparse_gemm.dense = "not 2:4: row 3, group 7"} : () -> !torch.vtensor<[32,64],f32>
  %4 = torch.aten.linear %x, %w4, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "the shape of its weight isn't known when compiling"}
  %w5 = "sparse_gemm.weight"() {name = "w5"} : () -> !torch.vtensor<[?,64],f32>
  %5 = torch.aten.linear %x, %w5, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[?,64],f32>, !torch.none -> !torch.vtensor<[4,?],f32>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight has rank 1; only matrices can be packed"}
  %w6 = "sparse_gemm.weight"() {name = "w6"} : () -> !torch.vtensor<[64],f32>
  %6 = torch.aten.linear %x, %w6, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64],f32>, !torch.none -> !torch.vtensor<[4],f32>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "a sparse layer needs one dtype throughout, not x f16, weight f32, result f32"}
  %w7 = "sparse_gemm.weight"() {name = "w7"} : () -> !torch.vtensor<[32,64],f32>
  %7 = torch.aten.linear %h, %w7, %none : !torch.vtensor<[4,64],f16>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "decided before"}
  %w8 = "sparse_gemm.weight"() {name = "w8"} : () -> !torch.vtensor<[32,64],f32>
  %8 = torch.aten.linear %x, %w8, %none {sparse_gemm.reason = "decided before"} : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  return
}

// -----

// Sparse already: left alone, and no obstacle for a layer that shares its weight.
// CHECK-LABEL: func.func @sparse_already
func.func @sparse_already(%x: !torch.vtensor<[4,64],f32>) {
  // CHECK: "sparse_gemm.linear"(%arg0, %{{.*}}) {epilogue = "relu", {{.*}}policy = "1:cpu"}
  // CHECK: "sparse_gemm.linear"(%arg0, %{{.*}}) {epilogue = "none", {{.*}}policy = ""}
  %none = torch.constant.none
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %0 = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "relu", policy = "1:cpu", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[4,32],f32>
  %1 = torch.aten.linear %x, %w, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  return
}

// -----

// A weight that is no reference but shows one says of which tensor.
// CHECK-LABEL: func.func @views
func.func @views(%x: !torch.vtensor<[4,64],f32>, %h: !torch.vtensor<[4,64],bf16>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %int0 = torch.constant.int 0
  %int1 = torch.constant.int 1
  %int3 = torch.constant.int 3
  %int15 = torch.constant.int 15
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "it multiplies by a part of the matrix 'in_proj_weight'"}
  %w0 = "sparse_gemm.weight"() {name = "in_proj_weight"} : () -> !torch.vtensor<[96,64],f32>
  %chunks = torch.aten.chunk %w0, %int3, %int0 : !torch.vtensor<[96,64],f32>, !torch.int, !torch.int -> !torch.list<vtensor>
  %q, %k, %v = torch.prim.ListUnpack %chunks : !torch.list<vtensor> -> !torch.vtensor<[32,64],f32>, !torch.vtensor<[32,64],f32>, !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %k, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "it multiplies by a part of the parameter of rank 3 'experts'"}
  %w1 = "sparse_gemm.weight"() {name = "experts"} : () -> !torch.vtensor<[4,32,64],f32>
  %e = torch.aten.select.int %w1, %int0, %int1 : !torch.vtensor<[4,32,64],f32>, !torch.int, !torch.int -> !torch.vtensor<[32,64],f32>
  %1 = torch.aten.linear %x, %e, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight 'fc.weight' is cast in each call, as under autocast"}
  %w2 = "sparse_gemm.weight"() {name = "fc.weight"} : () -> !torch.vtensor<[32,64],f32>
  %c = torch.aten.to.dtype %w2, %int15, %false, %false, %none : !torch.vtensor<[32,64],f32>, !torch.int, !torch.bool, !torch.bool, !torch.none -> !torch.vtensor<[32,64],bf16>
  %2 = torch.aten.linear %h, %c, %none : !torch.vtensor<[4,64],bf16>, !torch.vtensor<[32,64],bf16>, !torch.none -> !torch.vtensor<[4,32],bf16>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight is a view of 'conv.weight', made in each call"}
  %w3 = "sparse_gemm.weight"() {name = "conv.weight"} : () -> !torch.vtensor<[32,64,1],f32>
  %s = torch.aten.squeeze.dim %w3, %int3 : !torch.vtensor<[32,64,1],f32>, !torch.int -> !torch.vtensor<[32,64],f32>
  %3 = torch.aten.linear %x, %s, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its matrix 'table' is a buffer, not a weight"}
  %w4 = "sparse_gemm.weight"() {name = "table", sparse_gemm.kind = "buffer"} : () -> !torch.vtensor<[40,64],f32>
  %t = torch.aten.slice.Tensor %w4, %int0, %int0, %int3, %int1 : !torch.vtensor<[40,64],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[3,64],f32>
  %4 = torch.aten.linear %x, %t, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[3,64],f32>, !torch.none -> !torch.vtensor<[4,3],f32>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "its weight is computed at run time"}
  %w5 = "sparse_gemm.weight"() {name = "v"} : () -> !torch.vtensor<[32,64],f32>
  %m = torch.aten.mul.Tensor %w5, %w5 : !torch.vtensor<[32,64],f32>, !torch.vtensor<[32,64],f32> -> !torch.vtensor<[32,64],f32>
  %5 = torch.aten.linear %x, %m, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  return
}
