// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

func.func @f() {
  // expected-error@+1 {{'sparse_gemm.quantized_weight' op must have values of f8E4M3FN, not bf16}}
  %0:3 = "sparse_gemm.quantized_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,32],bf16>, !torch.vtensor<[8,8],ui8>, !torch.vtensor<[8],f32>)
  return
}

// -----

func.func @f() {
  // expected-error@+1 {{'sparse_gemm.quantized_weight' op needs f32 scales of shape [N] with N = 8, not '!torch.vtensor<[9],f32>'}}
  %0:3 = "sparse_gemm.quantized_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,32],f8E4M3FN>, !torch.vtensor<[8,8],ui8>, !torch.vtensor<[9],f32>)
  return
}

// -----

func.func @f() {
  // expected-error@+1 {{'sparse_gemm.quantized_weight' op needs f32 scales of shape [N] with N = 8, not '!torch.vtensor<[8],bf16>'}}
  %0:3 = "sparse_gemm.quantized_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,32],f8E4M3FN>, !torch.vtensor<[8,8],ui8>, !torch.vtensor<[8],bf16>)
  return
}

// -----

func.func @f() {
  // expected-error@+1 {{'sparse_gemm.quantized_weight' op must return three !torch.vtensor, values, positions and scales}}
  %0:3 = "sparse_gemm.quantized_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,32],f8E4M3FN>, !torch.vtensor<[8,8],ui8>, i32)
  return
}

// -----

func.func @f() {
  // expected-error@+1 {{'sparse_gemm.quantized_weight' op 'sizes' add up to 7, but the result has N = 8}}
  %0:3 = "sparse_gemm.quantized_weight"() {names = ["a"], pattern = "2:4", sizes = array<i64: 7>} : () -> (!torch.vtensor<[8,32],f8E4M3FN>, !torch.vtensor<[8,8],ui8>, !torch.vtensor<[8],f32>)
  return
}
