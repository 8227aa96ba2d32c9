// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a 'format' that is one of '2:4', '4:6', '6:8', '2:4-fp8', 'fp8', 'int8', not '4:8'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "4:8", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a 'format' that is one of '2:4', '4:6', '6:8', '2:4-fp8', 'fp8', 'int8', not none}}
  %y = "sparse_gemm.linear"(%x, %w) {epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs an 'epilogue' that is one of none, relu, gelu, gelu_tanh, silu, relu_gated, gelu_gated, gelu_tanh_gated, silu_gated, not 'tanh'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "tanh", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs an 'epilogue' that is one of none, relu, gelu, gelu_tanh, silu, relu_gated, gelu_gated, gelu_tanh_gated, silu_gated, not none}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = 3 : i64, policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a string 'policy'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has a malformed policy 'cpu': 'cpu' is not of the form M:kernel}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "cpu", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has a malformed policy '1:tpu': unknown kernel 'tpu'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "1:tpu", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has a malformed policy '1:cpu,1:dense': M must ascend, but 1 follows 1}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "1:cpu,1:dense", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

// M = 1 would have no backend.
func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has a malformed policy '8:cpu': the first range must start at M=1, not 8}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "8:cpu", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: i32, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a !torch.vtensor as x, not 'i32'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (i32, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.tensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a !torch.vtensor as weight, not '!torch.tensor<[8,64],f32>'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.tensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f16>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs one dtype throughout, not x f32, weight f16, result f32}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f16>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>, %b: !torch.vtensor<[8],f64>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs one dtype throughout, not x f32, weight f32, bias f64, result f32}}
  %y = "sparse_gemm.linear"(%x, %w, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>, !torch.vtensor<[8],f64>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f64>, %w: !torch.vtensor<[8,64],f64>) {
  // expected-error@+1 {{'sparse_gemm.linear' op multiplies f32, f16, bf16, not f64}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f64>, !torch.vtensor<[8,64],f64>) -> !torch.vtensor<[4,8],f64>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],si64>, %w: !torch.vtensor<[8,64],si64>) {
  // expected-error@+1 {{'sparse_gemm.linear' op multiplies f32, f16, bf16, not si64}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],si64>, !torch.vtensor<[8,64],si64>) -> !torch.vtensor<[4,8],si64>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[1,8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a weight of shape [N, K], not of rank 3}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[1,8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs x of shape [..., K] and a result of shape [..., N], not a scalar}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,60],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has K = 60 in x but K = 64 in the weight}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,60],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

// Dynamic leading sizes don't hide a wrong K.
func.func @f(%x: !torch.vtensor<[?,?,60],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has K = 60 in x but K = 64 in the weight}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,60],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[?,?,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op must return '!torch.vtensor<[4,8],f32>', not '!torch.vtensor<[4,9],f32>'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,9],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[?,2,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op must return '!torch.vtensor<[?,2,8],f32>', not '!torch.vtensor<[?,3,8],f32>'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,2,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[?,3,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op must return '!torch.vtensor<[4,8],f32>', not '!torch.vtensor<[4,1,8],f32>'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,1,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>, %b: !torch.vtensor<[7],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a bias of shape [N] with N = 8, not '!torch.vtensor<[7],f32>'}}
  %y = "sparse_gemm.linear"(%x, %w, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>, !torch.vtensor<[7],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

// A bias doesn't broadcast.
func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>, %b: !torch.vtensor<[1],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a bias of shape [N] with N = 8, not '!torch.vtensor<[1],f32>'}}
  %y = "sparse_gemm.linear"(%x, %w, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>, !torch.vtensor<[1],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>, %b: !torch.vtensor<[1,8],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a bias of shape [N] with N = 8, not '!torch.vtensor<[1,8],f32>'}}
  %y = "sparse_gemm.linear"(%x, %w, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>, !torch.vtensor<[1,8],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>, %r: !torch.vtensor<[8],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a residual of the result's type '!torch.vtensor<[4,8],f32>', not '!torch.vtensor<[8],f32>'}}
  %y = "sparse_gemm.linear"(%x, %w, %r) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 1>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>, !torch.vtensor<[8],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],bf16>, %w: !torch.vtensor<[8,64],bf16>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a 'format' that is one of '2:4', '4:6', '6:8', '2:4-fp8', 'fp8', 'int8', not '2:4-int4'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4-int4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],bf16>, !torch.vtensor<[8,64],bf16>) -> !torch.vtensor<[4,8],bf16>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op can't be '2:4-fp8': it is f32; fp8 replaces f16, bf16}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4-fp8", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[7,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs an even N for the epilogue 'silu_gated', not 7}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "silu_gated", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[7,64],f32>) -> !torch.vtensor<[4,3],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[?,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs an even N for the epilogue 'silu_gated', not a dynamic one}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "silu_gated", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[4,4],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>, %r: !torch.vtensor<[4,4],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op can't have both the epilogue 'relu_gated' and 'residual'}}
  %y = "sparse_gemm.linear"(%x, %w, %r) {format = "2:4", epilogue = "relu_gated", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 1>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>, !torch.vtensor<[4,4],f32>) -> !torch.vtensor<[4,4],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],bf16>, %w: !torch.vtensor<[8,64],bf16>) {
  // expected-error@+1 {{'sparse_gemm.linear' op can't be '2:4-fp8': N and K must be multiples of 64, got N=8, K=64}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4-fp8", epilogue = "silu_gated", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],bf16>, !torch.vtensor<[8,64],bf16>) -> !torch.vtensor<[4,4],bf16>
  return
}

// -----

// The gate halves the result.
func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op must return '!torch.vtensor<[4,4],f32>', not '!torch.vtensor<[4,8],f32>'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "silu_gated", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has 2 operands and 'operandSegmentSizes' none}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<si64: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has 'keeps_dense', but its policy runs densely for no M}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", keeps_dense, policy = "1:cpu", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @f(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op needs a unit attribute 'keeps_dense', or none}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", keeps_dense = true, policy = "1:dense", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}
