// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics --lower-sparse-gemm

func.func @computed(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[32,64],f32>) {
  // expected-error@+1 {{'sparse_gemm.linear' op has a weight that is computed at run time; only references can be packed}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[4,32],f32>
  return
}

// -----

func.func @dynamic(%x: !torch.vtensor<[4,64],f32>) {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[?,64],f32>
  // expected-error@+1 {{'sparse_gemm.linear' op has a weight of type '!torch.vtensor<[?,64],f32>'; packing needs its shape}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[4,32],f32>
  return
}

// -----

func.func @unranked(%x: !torch.vtensor<[4,64],f32>) {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<*,f32>
  // expected-error@+1 {{'sparse_gemm.linear' op has a weight of type '!torch.vtensor<*,f32>'; packing needs its shape}}
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<*,f32>) -> !torch.vtensor<[4,32],f32>
  return
}
