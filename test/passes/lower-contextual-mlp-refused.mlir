// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics --lower-contextual-mlp

func.func @computed(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,8],f32> {
  %d = "sparse_gemm.weight"() {name = "down.weight", transposed} : () -> !torch.vtensor<[16,8],f32>
  %a = "sparse_gemm.weight"() {name = "up/pred_a"} : () -> !torch.vtensor<[2,8],f32>
  %b = "sparse_gemm.weight"() {name = "up/pred_b"} : () -> !torch.vtensor<[16,2],f32>
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op has up that isn't a reference to one weight}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

func.func @shapeless(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  %u = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[?,8],f32>
  %d = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[?,8],f32>
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op has up of type '!torch.vtensor<[?,8],f32>'; packing needs its shape}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d) {activation = "silu", rule = "gate", parameter = 4.0 : f64, m_max = 8 : i64, up_policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[?,8],f32>, !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}
