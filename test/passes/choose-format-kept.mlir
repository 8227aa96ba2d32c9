// RUN: sparseflow-opt %s --split-input-file --pass-pipeline='builtin.module(choose-format{format=2:4-fp8},merge-projections,fuse-epilogue)' | FileCheck %s

// Passes that make a layer anew keep its format.
// CHECK-LABEL: func.func @fused
func.func @fused(%x: !torch.vtensor<[?,64],bf16>) -> !torch.vtensor<[?,64],bf16> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,64],bf16>
  // CHECK: "sparse_gemm.linear"{{.*}}epilogue = "relu", format = "2:4-fp8"
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,64],bf16>
  %z = torch.aten.relu %y : !torch.vtensor<[?,64],bf16> -> !torch.vtensor<[?,64],bf16>
  return %z : !torch.vtensor<[?,64],bf16>
}

// -----

// A layer in fp8 and one that isn't stay apart.
// CHECK-LABEL: func.func @merged
func.func @merged(%x: !torch.vtensor<[?,64],bf16>) -> (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[?,64],bf16>, !torch.vtensor<[?,72],bf16>) {
  %a = "sparse_gemm.weight"() {name = "a"} : () -> !torch.vtensor<[64,64],bf16>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[64,64],bf16>
  %c = "sparse_gemm.weight"() {name = "c"} : () -> !torch.vtensor<[72,64],bf16>
  // CHECK: sparse_gemm.merged_weight"() {names = ["a", "b"]
  // CHECK: "sparse_gemm.linear"{{.*}}format = "2:4-fp8"
  // CHECK: "sparse_gemm.linear"{{.*}}sparse_gemm.format_refused
  %0 = "sparse_gemm.linear"(%x, %a) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,64],bf16>
  %1 = "sparse_gemm.linear"(%x, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,64],bf16>
  %2 = "sparse_gemm.linear"(%x, %c) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[72,64],bf16>) -> !torch.vtensor<[?,72],bf16>
  return %0, %1, %2 : !torch.vtensor<[?,64],bf16>, !torch.vtensor<[?,64],bf16>, !torch.vtensor<[?,72],bf16>
}
