// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs activation to be one of silu, gelu, gelu_tanh, relu, relu2, not 'tanh'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "tanh", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs rule to be one of threshold, top_k, statistical, gate, not 'best'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "best", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs a float 'parameter'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4 : i64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs an integer 'm_max' of at least 1}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 0 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: i32, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs a !torch.vtensor as down_t, not 'i32'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, i32, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f64>, %u: !torch.vtensor<[16,8],f64>, %d: !torch.vtensor<[16,8],f64>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op multiplies f32, f16, bf16, not f64}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f64>, !torch.vtensor<[16,8],f64>, !torch.vtensor<[16,8],f64>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f64>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs a matrix as up}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,7],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs x to be '!torch.vtensor<[?,8],f32>', not '!torch.vtensor<[?,7],f32>'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,7],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,7],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[8,16],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs down_t to be '!torch.vtensor<[16,8],f32>', not '!torch.vtensor<[8,16],f32>'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[8,16],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>, %o: !torch.vtensor<[16,8],bf16>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs gate to be '!torch.vtensor<[16,8],f32>', not '!torch.vtensor<[16,8],bf16>'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b, %o) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>, !torch.vtensor<[16,8],bf16>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>, %o: !torch.vtensor<[16],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs down_bias to be '!torch.vtensor<[8],f32>', not '!torch.vtensor<[16],f32>'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b, %o) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>, !torch.vtensor<[16],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[3,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs result to be '!torch.vtensor<[3,8],f32>', not '!torch.vtensor<[4,8],f32>'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[3,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,3],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs pred_b to be '!torch.vtensor<[16,2],f32>', not '!torch.vtensor<[16,3],f32>'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,3],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>, %b: !torch.vtensor<[16,2],f32>, %o: !torch.vtensor<[16],bf16>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs pred_bias to be '!torch.vtensor<[16],f32>', not '!torch.vtensor<[16],bf16>'}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b, %o) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>, !torch.vtensor<[16],bf16>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f64>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs pred_a in one of f32, f16, bf16, si8, not f64}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f64>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %d: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],si8>, %b: !torch.vtensor<[16,2],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs pred_a_scale if and only if pred_a is in si8}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],si8>, !torch.vtensor<[16,2],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>, %a: !torch.vtensor<[2,8],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs pred_a and pred_b if and only if the rule isn't gate}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %u, %a) {activation = "silu", rule = "gate", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op has a malformed down_policy: unknown kernel 'cup'; known: dense, cpu, cusparselt, skinny}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %u) {activation = "silu", rule = "gate", parameter = 4.0 : f64, m_max = 8 : i64, down_policy = "1:cup", operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,8],f32>, %u: !torch.vtensor<[16,8],f32>) {
  // expected-error@+1 {{'sparse_gemm.contextual_mlp' op needs up_policy to be a string; left out, the product is dense}}
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %u) {activation = "silu", rule = "gate", parameter = 4.0 : f64, m_max = 8 : i64, up_policy = 4, operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,8],f32>
  return
}
