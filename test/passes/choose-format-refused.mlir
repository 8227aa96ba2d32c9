// RUN: sparseflow-opt %s --split-input-file --choose-format=format=2:4-fp8 | FileCheck %s

// CHECK-LABEL: func.func @sizes
func.func @sizes(%x: !torch.vtensor<[?,128],bf16>) -> !torch.vtensor<[?,72],bf16> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[72,128],bf16>
  // CHECK: format = "2:4"{{.*}}sparse_gemm.format_refused = "N and K must be multiples of 64, got N=72, K=128"
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,128],bf16>, !torch.vtensor<[72,128],bf16>) -> !torch.vtensor<[?,72],bf16>
  return %y : !torch.vtensor<[?,72],bf16>
}

// -----

// CHECK-LABEL: func.func @float32
func.func @float32(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,64],f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,64],f32>
  // CHECK: sparse_gemm.format_refused = "it is f32; fp8 replaces f16, bf16"
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[64,64],f32>) -> !torch.vtensor<[?,64],f32>
  return %y : !torch.vtensor<[?,64],f32>
}

// -----

// CHECK-LABEL: func.func @dynamic
func.func @dynamic(%x: !torch.vtensor<[?,64],bf16>) -> !torch.vtensor<[?,?],bf16> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[?,64],bf16>
  // CHECK: sparse_gemm.format_refused = "the type of its weight isn't known when compiling"
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[?,64],bf16>) -> !torch.vtensor<[?,?],bf16>
  return %y : !torch.vtensor<[?,?],bf16>
}
