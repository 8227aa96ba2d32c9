// RUN: sparseflow-opt %s --split-input-file --lower-column-linear | FileCheck %s

// CHECK-LABEL: func.func @one
func.func @one(%x: !torch.vtensor<[?,8],f32>, %r: !torch.vtensor<[?,16],f32>) -> !torch.vtensor<[?,16],f32> {
  // CHECK-DAG: %[[B:.*]] = "sparse_gemm.weight"() {name = "q.bias"}
  // CHECK-DAG: %[[W:.*]] = "sparse_gemm.weight"() {contiguous, name = "q.weight", transposed} : () -> !torch.vtensor<[8,16],f32>
  // CHECK-DAG: %[[T:.*]] = torch.constant.float 2.500000e-01
  // CHECK-DAG: %[[M:.*]] = torch.constant.int 4
  // CHECK-DAG: %[[E:.*]] = torch.constant.str "none"
  // CHECK: %[[Y:.*]] = torch.operator "torch.sparseflow.column_linear"(%arg0, %[[W]], %[[T]], %[[B]], %arg1, %none{{[^,]*}}, %[[M]], %[[E]])
  // CHECK-NOT: sparse_gemm.column_linear
  // CHECK: return %[[Y]]
  %w = "sparse_gemm.weight"() {name = "q.weight"} : () -> !torch.vtensor<[16,8],f32>
  %b = "sparse_gemm.weight"() {name = "q.bias"} : () -> !torch.vtensor<[16],f32>
  %y = "sparse_gemm.column_linear"(%x, %w, %b, %r) {threshold = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16],f32>, !torch.vtensor<[?,16],f32>) -> !torch.vtensor<[?,16],f32>
  return %y : !torch.vtensor<[?,16],f32>
}

// -----

// A weight that the model stores [K, N] is read as it is.
// CHECK-LABEL: func.func @stored_transposed
func.func @stored_transposed(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,16],f32> {
  // CHECK: "sparse_gemm.weight"() {contiguous, name = "q.weight"} : () -> !torch.vtensor<[8,16],f32>
  %w = "sparse_gemm.weight"() {name = "q.weight", transposed} : () -> !torch.vtensor<[16,8],f32>
  %y = "sparse_gemm.column_linear"(%x, %w) {threshold = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32>
  return %y : !torch.vtensor<[?,16],f32>
}

// -----

// CHECK-LABEL: func.func @merged
func.func @merged(%x: !torch.vtensor<[?,8],bf16>) -> !torch.vtensor<[?,24],bf16> {
  // CHECK: "sparse_gemm.merged_weight"() {names = ["q.weight", "k.weight"], sizes = array<i64: 16, 8>, transposed = array<i1: false, true>, turned} : () -> !torch.vtensor<[8,24],bf16>
  %w = "sparse_gemm.merged_weight"() {names = ["q.weight", "k.weight"], sizes = array<i64: 16, 8>, transposed = array<i1: false, true>} : () -> !torch.vtensor<[24,8],bf16>
  %y = "sparse_gemm.column_linear"(%x, %w) {threshold = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],bf16>, !torch.vtensor<[24,8],bf16>) -> !torch.vtensor<[?,24],bf16>
  return %y : !torch.vtensor<[?,24],bf16>
}

// -----

// A weight in 8 bits is packed, and its transpose and scales are what the operator reads.
// CHECK-LABEL: func.func @in_int8
func.func @in_int8(%x: !torch.vtensor<[?,8],bf16>) -> !torch.vtensor<[?,24],bf16> {
  // CHECK: %[[P:.*]] = "sparse_gemm.packed_weight"() {format = "int8-columns", names = ["q.weight", "k.weight"], sizes = array<i64: 16, 8>, transposed = array<i1: false, true>, weight = !torch.vtensor<[24,8],bf16>}
  // CHECK: %[[V:.*]]:2 = torch.prim.TupleUnpack %[[P]]
  // CHECK: %[[T:.*]] = torch.aten.t %[[V]]#0 : !torch.vtensor<[24,8],si8> -> !torch.vtensor<[8,24],si8>
  // CHECK: torch.operator "torch.sparseflow.column_linear"(%arg0, %[[T]], {{.*}}, %[[V]]#1, {{[^,]*}}, {{[^,]*}})
  %w = "sparse_gemm.merged_weight"() {names = ["q.weight", "k.weight"], sizes = array<i64: 16, 8>, transposed = array<i1: false, true>} : () -> !torch.vtensor<[24,8],bf16>
  %y = "sparse_gemm.column_linear"(%x, %w) {format = "int8", threshold = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],bf16>, !torch.vtensor<[24,8],bf16>) -> !torch.vtensor<[?,24],bf16>
  return %y : !torch.vtensor<[?,24],bf16>
}

// -----

// The epilogue is an argument.
// CHECK-LABEL: func.func @gated
func.func @gated(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK: %[[E:.*]] = torch.constant.str "silu_gated"
  // CHECK: torch.operator "torch.sparseflow.column_linear"({{.*}}, %[[E]]) : {{.*}} -> !torch.vtensor<[?,8],f32>
  %w = "sparse_gemm.weight"() {name = "q.weight"} : () -> !torch.vtensor<[16,8],f32>
  %y = "sparse_gemm.column_linear"(%x, %w) {epilogue = "silu_gated", threshold = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}
