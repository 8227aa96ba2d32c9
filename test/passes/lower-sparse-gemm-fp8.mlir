// RUN: sparseflow-opt %s --split-input-file --pass-pipeline='builtin.module(choose-format{format=2:4-fp8},lower-sparse-gemm)' | FileCheck %s

// The dense form is in fp8 too.
// CHECK-LABEL: func.func @merged
// CHECK: %[[QT:.*]] = "sparse_gemm.packed_weight"() {format = "2:4-fp8", names = ["a", "b"], sizes = array<i64: 64, 128>, transposed = array<i1: false, true>, weight = !torch.vtensor<[192,128],bf16>} : () -> !torch.tuple<vtensor<[192,64],f8E4M3FN>, vtensor<[192,16],ui8>, vtensor<[192],f32>>
// CHECK: %[[Q:.*]]:3 = torch.prim.TupleUnpack %[[QT]]
// CHECK: %[[D:.*]] = "sparse_gemm.pruned_weight"() {{{.*}}} : () -> !torch.vtensor<[192,128],f8E4M3FN>
// CHECK: torch.constant.int 128
// CHECK: torch.constant.str "relu"
// CHECK: torch.operator "torch.sparseflow.linear_fp8"(%arg0, %[[Q]]#0, %[[Q]]#1, %[[Q]]#2, %arg1, {{.*}}, %[[D]])
// CHECK-NOT: sparse_gemm.linear
func.func @merged(%x: !torch.vtensor<[?,128],bf16>, %b: !torch.vtensor<[192],bf16>) -> !torch.vtensor<[?,192],bf16> {
  %w = "sparse_gemm.merged_weight"() {names = ["a", "b"], sizes = array<i64: 64, 128>, transposed = array<i1: false, true>} : () -> !torch.vtensor<[192,128],bf16>
  %y = "sparse_gemm.linear"(%x, %w, %b) {format = "2:4", epilogue = "relu", keeps_dense, policy = "1:cusparselt@7,16:dense", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[?,128],bf16>, !torch.vtensor<[192,128],bf16>, !torch.vtensor<[192],bf16>) -> !torch.vtensor<[?,192],bf16>
  return %y : !torch.vtensor<[?,192],bf16>
}

// -----

// Two layers share a weight, and so its fp8 form.
// CHECK-LABEL: func.func @shared
// CHECK-COUNT-1: sparse_gemm.packed_weight
// CHECK-COUNT-2: torch.sparseflow.linear_fp8
// CHECK-NOT: sparse_gemm.packed_weight
func.func @shared(%x: !torch.vtensor<[?,64],f16>) -> !torch.vtensor<[?,64],f16> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,64],f16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f16>, !torch.vtensor<[64,64],f16>) -> !torch.vtensor<[?,64],f16>
  %z = "sparse_gemm.linear"(%y, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f16>, !torch.vtensor<[64,64],f16>) -> !torch.vtensor<[?,64],f16>
  return %z : !torch.vtensor<[?,64],f16>
}

// -----

// CHECK-LABEL: func.func @sizes
// CHECK: sparse_gemm.packed_weight
// CHECK: torch.sparseflow.linear"
func.func @sizes(%x: !torch.vtensor<[?,128],bf16>) -> !torch.vtensor<[?,72],bf16> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[72,128],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,128],bf16>, !torch.vtensor<[72,128],bf16>) -> !torch.vtensor<[?,72],bf16>
  return %y : !torch.vtensor<[?,72],bf16>
}
