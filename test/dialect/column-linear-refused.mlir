// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

func.func @f(%x: !torch.vtensor<[?,8],f32>, %w: !torch.vtensor<[16,8],f32>) {
  // expected-error@+1 {{'sparse_gemm.column_linear' op needs a finite float 'threshold' of at least 0}}
  %y = "sparse_gemm.column_linear"(%x, %w) {threshold = -1.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %w: !torch.vtensor<[16,8],f32>) {
  // expected-error@+1 {{'sparse_gemm.column_linear' op needs an integer 'm_max' of at least 1}}
  %y = "sparse_gemm.column_linear"(%x, %w) {threshold = 1.0 : f64, m_max = 0 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,9],f32>, %w: !torch.vtensor<[16,8],f32>) {
  // expected-error@+1 {{'sparse_gemm.column_linear' op has K = 9 in x but K = 8 in the weight}}
  %y = "sparse_gemm.column_linear"(%x, %w) {threshold = 1.0 : f64, m_max = 1 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,9],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32>
  return
}

// -----

func.func @f() {
  // expected-error@+1 {{'sparse_gemm.merged_weight' op is 'turned' but of rank 1; only a matrix can be}}
  %w = "sparse_gemm.merged_weight"() {names = ["a", "b"], turned} : () -> !torch.vtensor<[16],f32>
  return
}

// -----

func.func @unknown_epilogue(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,16],f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[16,8],f32>
  // expected-error@+1 {{'sparse_gemm.column_linear' op needs an 'epilogue' that is one of none, relu, gelu, gelu_tanh, silu, relu_gated, gelu_gated, gelu_tanh_gated, silu_gated, not 'tanh'}}
  %y = "sparse_gemm.column_linear"(%x, %w) {epilogue = "tanh", threshold = 1.0 : f64, m_max = 1 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32>
  return %y : !torch.vtensor<[?,16],f32>
}

// -----

func.func @a_gate_halves_the_result(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,16],f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[16,8],f32>
  // expected-error@+1 {{'sparse_gemm.column_linear' op must return '!torch.vtensor<[?,8],f32>', not '!torch.vtensor<[?,16],f32>'}}
  %y = "sparse_gemm.column_linear"(%x, %w) {epilogue = "silu_gated", threshold = 1.0 : f64, m_max = 1 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,16],f32>
  return %y : !torch.vtensor<[?,16],f32>
}
