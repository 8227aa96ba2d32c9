// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

func.func @missing(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has 2 operands and 'operandSegmentSizes' none}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = ""} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @too_many(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has 2 operands and 'operandSegmentSizes' 'array<i32: 1, 1, 1, 0>'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @other_kind(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[8,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has 2 operands and 'operandSegmentSizes' 'array<i64: 1, 1, 0, 0>'}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i64: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[4,8],f32>
  return
}

// -----

func.func @operands(%x: !torch.vtensor<[4,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.weight' op has 1 operands, not 0}}
  %y = "sparse_gemm.weight"(%x) {name = "w"} : (!torch.vtensor<[4,64],f32>) -> !torch.vtensor<[4,64],f32>
  return
}

// -----

func.func @results() {
  // expected-error@+1 {{'sparse_gemm.merged_weight' op has 2 results, not 1}}
  %y:2 = "sparse_gemm.merged_weight"() {names = ["w"]} : () -> (!torch.vtensor<[4,64],f32>, !torch.vtensor<[4,64],f32>)
  return
}
