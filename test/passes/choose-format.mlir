// RUN: sparseflow-opt %s --split-input-file --choose-format=format=2:4-fp8 | FileCheck %s

// CHECK-LABEL: func.func @merged
// CHECK: "sparse_gemm.linear"{{.*}}format = "2:4-fp8"
func.func @merged(%x: !torch.vtensor<[?,128],bf16>, %b: !torch.vtensor<[192],bf16>) -> !torch.vtensor<[?,192],bf16> {
  %w = "sparse_gemm.merged_weight"() {names = ["a", "b"], sizes = array<i64: 64, 128>, transposed = array<i1: false, true>} : () -> !torch.vtensor<[192,128],bf16>
  %y = "sparse_gemm.linear"(%x, %w, %b) {format = "2:4", epilogue = "relu", policy = "1:cusparselt@7,16:dense", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[?,128],bf16>, !torch.vtensor<[192,128],bf16>, !torch.vtensor<[192],bf16>) -> !torch.vtensor<[?,192],bf16>
  return %y : !torch.vtensor<[?,192],bf16>
}

// -----

// CHECK-LABEL: func.func @shared
func.func @shared(%x: !torch.vtensor<[?,64],f16>) -> !torch.vtensor<[?,64],f16> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,64],f16>
  // CHECK-COUNT-2: format = "2:4-fp8"
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f16>, !torch.vtensor<[64,64],f16>) -> !torch.vtensor<[?,64],f16>
  %z = "sparse_gemm.linear"(%y, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f16>, !torch.vtensor<[64,64],f16>) -> !torch.vtensor<[?,64],f16>
  return %z : !torch.vtensor<[?,64],f16>
}
