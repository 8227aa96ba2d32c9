// RUN: sparseflow-opt %s --split-input-file --merge-projections | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file --merge-projections --merge-projections | FileCheck %s

// q, k and v: one layer, three slices, in the order of the layers.
// CHECK-LABEL: func.func @qkv
func.func @qkv(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>) {
  // CHECK: %[[W:.*]] = "sparse_gemm.merged_weight"() {names = ["q.weight", "k.weight", "v.weight"], sizes = array<i64: 64, 32, 32>} : () -> !torch.vtensor<[128,64],bf16>
  // CHECK: %[[B:.*]] = "sparse_gemm.merged_weight"() {names = ["q.bias", "k.bias", "v.bias"], sizes = array<i64: 64, 32, 32>} : () -> !torch.vtensor<[128],bf16>
  // CHECK: %[[Y:.*]] = "sparse_gemm.linear"(%arg0, %[[W]], %[[B]]) {epilogue = "none", format = "2:4", operandSegmentSizes = array<i32: 1, 1, 1, 0>, policy = "1:cpu"} : {{.*}} -> !torch.vtensor<[?,?,128],bf16>
  // CHECK-NOT: sparse_gemm
  // CHECK: %[[D0:.*]] = torch.constant.int -1
  // CHECK: %[[S0:.*]] = torch.constant.int 0
  // CHECK: %[[E0:.*]] = torch.constant.int 64
  // CHECK: %[[T0:.*]] = torch.constant.int 1
  // CHECK: %[[Q:.*]] = torch.aten.slice.Tensor %[[Y]], %[[D0]], %[[S0]], %[[E0]], %[[T0]] : {{.*}} -> !torch.vtensor<[?,?,64],bf16>
  // CHECK: %[[S1:.*]] = torch.constant.int 64
  // CHECK: %[[E1:.*]] = torch.constant.int 96
  // CHECK: %[[K:.*]] = torch.aten.slice.Tensor %[[Y]], %{{.*}}, %[[S1]], %[[E1]], %{{.*}} -> !torch.vtensor<[?,?,32],bf16>
  // CHECK: %[[S2:.*]] = torch.constant.int 96
  // CHECK: %[[E2:.*]] = torch.constant.int 128
  // CHECK: %[[V:.*]] = torch.aten.slice.Tensor %[[Y]], %{{.*}}, %[[S2]], %[[E2]], %{{.*}} -> !torch.vtensor<[?,?,32],bf16>
  // CHECK: return %[[Q]], %[[K]], %[[V]]
  %wq = "sparse_gemm.weight"() {name = "q.weight"} : () -> !torch.vtensor<[64,64],bf16>
  %bq = "sparse_gemm.weight"() {name = "q.bias"} : () -> !torch.vtensor<[64],bf16>
  %q = "sparse_gemm.linear"(%x, %wq, %bq) {format = "2:4", epilogue = "none", policy = "1:cpu", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>, !torch.vtensor<[64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %wk = "sparse_gemm.weight"() {name = "k.weight"} : () -> !torch.vtensor<[32,64],bf16>
  %bk = "sparse_gemm.weight"() {name = "k.bias"} : () -> !torch.vtensor<[32],bf16>
  %k = "sparse_gemm.linear"(%x, %wk, %bk) {format = "2:4", epilogue = "none", policy = "1:cpu", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[32,64],bf16>, !torch.vtensor<[32],bf16>) -> !torch.vtensor<[?,?,32],bf16>
  %wv = "sparse_gemm.weight"() {name = "v.weight"} : () -> !torch.vtensor<[32,64],bf16>
  %bv = "sparse_gemm.weight"() {name = "v.bias"} : () -> !torch.vtensor<[32],bf16>
  %v = "sparse_gemm.linear"(%x, %wv, %bv) {format = "2:4", epilogue = "none", policy = "1:cpu", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[32,64],bf16>, !torch.vtensor<[32],bf16>) -> !torch.vtensor<[?,?,32],bf16>
  return %q, %k, %v : !torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>
}

// -----

// The same over dense layers; a weight stored the other way round keeps its mark. What comes between reads the first part.
// CHECK-LABEL: func.func @gate_up
func.func @gate_up(%x: !torch.vtensor<[3,64],f32>) -> !torch.vtensor<[3,32],f32> {
  // CHECK: %[[W:.*]] = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>, transposed = array<i1: false, true>}
  // CHECK: %[[Y:.*]] = torch.aten.linear %arg0, %[[W]], %{{.*}} -> !torch.vtensor<[3,64],f32>
  // CHECK: %[[GATE:.*]] = torch.aten.slice.Tensor %[[Y]]
  // CHECK: %[[UP:.*]] = torch.aten.slice.Tensor %[[Y]]
  // CHECK: %[[A:.*]] = torch.aten.silu %[[GATE]]
  // CHECK-NOT: torch.aten.linear
  // CHECK: torch.aten.mul.Tensor %[[A]], %[[UP]]
  %none = torch.constant.none
  %wg = "sparse_gemm.weight"() {name = "gate.weight"} : () -> !torch.vtensor<[32,64],f32>
  %g = torch.aten.linear %x, %wg, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %a = torch.aten.silu %g : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  %wu = "sparse_gemm.weight"() {name = "up.weight", transposed} : () -> !torch.vtensor<[32,64],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %y = torch.aten.mul.Tensor %a, %u : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  return %y : !torch.vtensor<[3,32],f32>
}

// -----

// Layers that leave out inputs merge where they leave out the same.
// CHECK-LABEL: func.func @columns
func.func @columns(%x: !torch.vtensor<[?,8],f32>) -> (!torch.vtensor<[?,16],f32>, !torch.vtensor<[?,4],f32>, !torch.vtensor<[?,4],f32>) {
  // CHECK: %[[W:.*]] = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 16, 4>} : () -> !torch.vtensor<[20,8],f32>
  // CHECK: "sparse_gemm.column_linear"(%arg0, %[[W]]) {m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>, threshold = 5.000000e-01 : f64} : {{.*}} -> !torch.vtensor<[?,20],f32>
  // CHECK: "sparse_gemm.column_linear"({{.*}}threshold = 7.500000e-01 : f64
  %g = "sparse_gemm.weight"() {name = "gate.weight"} : () -> !torch.vtensor<[16,8],f32>
  %u = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[4,8],f32>
  %o = "sparse_gemm.weight"() {name = "other.weight"} : () -> !torch.vtensor<[4,8],f32>
  %a = "sparse_gemm.column_linear"(%x, %g) {threshold = 0.5 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32>
  %b = "sparse_gemm.column_linear"(%x, %u) {threshold = 0.5 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[4,8],f32>) -> !torch.vtensor<[?,4],f32>
  %c = "sparse_gemm.column_linear"(%x, %o) {threshold = 0.75 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[4,8],f32>) -> !torch.vtensor<[?,4],f32>
  return %a, %b, %c : !torch.vtensor<[?,16],f32>, !torch.vtensor<[?,4],f32>, !torch.vtensor<[?,4],f32>
}
