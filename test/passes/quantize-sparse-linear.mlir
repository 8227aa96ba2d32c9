// RUN: sparseflow-opt %s --split-input-file --quantize-sparse-linear | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file --pass-pipeline='builtin.module(quantize-sparse-linear,lower-sparse-gemm{memory=fast})' | FileCheck %s --check-prefix=LOWER

// CHECK-LABEL: func.func @merged
// CHECK: "sparse_gemm.linear"{{.*}}quantize = "fp8"
// The dense form is of the quantised weight too.
// LOWER-LABEL: func.func @merged
// LOWER: %[[Q:.*]]:3 = "sparse_gemm.quantized_weight"() {names = ["a", "b"], pattern = "2:4", sizes = array<i64: 64, 128>, transposed = array<i1: false, true>} : () -> (!torch.vtensor<[192,64],f8E4M3FN>, !torch.vtensor<[192,16],ui8>, !torch.vtensor<[192],f32>)
// LOWER: %[[D:.*]] = "sparse_gemm.pruned_weight"() {{{.*}}} : () -> !torch.vtensor<[192,128],f8E4M3FN>
// LOWER: torch.constant.int 128
// LOWER: torch.constant.str "relu"
// LOWER: torch.operator "torch.sparseflow.linear_fp8"(%arg0, %[[Q]]#0, %[[Q]]#1, %[[Q]]#2, %arg1, {{.*}}, %[[D]])
// LOWER-NOT: sparse_gemm.linear
func.func @merged(%x: !torch.vtensor<[?,128],bf16>, %b: !torch.vtensor<[192],bf16>) -> !torch.vtensor<[?,192],bf16> {
  %w = "sparse_gemm.merged_weight"() {names = ["a", "b"], sizes = array<i64: 64, 128>, transposed = array<i1: false, true>} : () -> !torch.vtensor<[192,128],bf16>
  %y = "sparse_gemm.linear"(%x, %w, %b) {pattern = "2:4", epilogue = "relu", policy = "1:cusparselt@7,16:dense", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[?,128],bf16>, !torch.vtensor<[192,128],bf16>, !torch.vtensor<[192],bf16>) -> !torch.vtensor<[?,192],bf16>
  return %y : !torch.vtensor<[?,192],bf16>
}

// -----

// Two layers share a weight, and so its quantised form.
// CHECK-LABEL: func.func @shared
// LOWER-LABEL: func.func @shared
// LOWER-COUNT-1: sparse_gemm.quantized_weight
// LOWER-COUNT-2: torch.sparseflow.linear_fp8
// LOWER-NOT: sparse_gemm.quantized_weight
func.func @shared(%x: !torch.vtensor<[?,64],f16>) -> !torch.vtensor<[?,64],f16> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,64],f16>
  // CHECK-COUNT-2: quantize = "fp8"
  %y = "sparse_gemm.linear"(%x, %w) {pattern = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f16>, !torch.vtensor<[64,64],f16>) -> !torch.vtensor<[?,64],f16>
  %z = "sparse_gemm.linear"(%y, %w) {pattern = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f16>, !torch.vtensor<[64,64],f16>) -> !torch.vtensor<[?,64],f16>
  return %z : !torch.vtensor<[?,64],f16>
}

// -----

// CHECK-LABEL: func.func @sizes
// LOWER-LABEL: func.func @sizes
// LOWER: sparse_gemm.packed_weight
// LOWER: torch.sparseflow.linear"
func.func @sizes(%x: !torch.vtensor<[?,128],bf16>) -> !torch.vtensor<[?,72],bf16> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[72,128],bf16>
  // CHECK-NOT: quantize =
  // CHECK: sparse_gemm.unquantized = "fp8 kernels need N and K to be multiples of 64, got N=72, K=128"
  %y = "sparse_gemm.linear"(%x, %w) {pattern = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,128],bf16>, !torch.vtensor<[72,128],bf16>) -> !torch.vtensor<[?,72],bf16>
  return %y : !torch.vtensor<[?,72],bf16>
}

// -----

// CHECK-LABEL: func.func @float32
func.func @float32(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,64],f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,64],f32>
  // CHECK: sparse_gemm.unquantized = "it is f32; fp8 takes the place of f16, bf16"
  %y = "sparse_gemm.linear"(%x, %w) {pattern = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[64,64],f32>) -> !torch.vtensor<[?,64],f32>
  return %y : !torch.vtensor<[?,64],f32>
}
