// RUN: not sparseflow-opt %s --split-input-file --lower-column-linear 2>&1 | FileCheck %s

// CHECK: has a weight that isn't a reference of known rank
func.func @computed(%x: !torch.vtensor<[?,8],f32>, %w: !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32> {
  %y = "sparse_gemm.column_linear"(%x, %w) {threshold = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32>
  return %y : !torch.vtensor<[?,16],f32>
}

// -----

// CHECK: has a weight that isn't a reference of known shape; only such a one is stored in 8 bits
func.func @computed_in_int8(%x: !torch.vtensor<[?,8],f32>, %w: !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32> {
  %y = "sparse_gemm.column_linear"(%x, %w) {format = "int8", threshold = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32>
  return %y : !torch.vtensor<[?,16],f32>
}

// -----

// CHECK: 'format' must be one of int8, fp8
func.func @unknown_format(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,16],f32> {
  %w = "sparse_gemm.weight"() {name = "q.weight"} : () -> !torch.vtensor<[16,8],f32>
  %y = "sparse_gemm.column_linear"(%x, %w) {format = "int3", threshold = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32>
  return %y : !torch.vtensor<[?,16],f32>
}
