// RUN: not sparseflow-opt %s --lower-decode-attention 2>&1 | FileCheck %s

// What the operator can't run isn't in the module: the operation's own rules are its.
// CHECK: 'sparse_gemm.decode_attention' op needs a position where it has a window
func.func @window(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>) -> !torch.vtensor<[?,4,1,8],f32> {
  %0 = "sparse_gemm.decode_attention"(%q, %k, %k) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>) -> !torch.vtensor<[?,4,1,8],f32>
  return %0 : !torch.vtensor<[?,4,1,8],f32>
}
