// RUN: sparseflow-opt %s --split-input-file --pack-head="weight=embed.weight format=fp8" | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file --pass-pipeline='builtin.module(pack-head{weight=embed.weight format=fp8},lower-sparse-gemm)' | FileCheck %s --check-prefix=LOWERED

// The head reads a packed copy; the embedding that is tied to it keeps the weight, and other layers their own.
// CHECK-LABEL: func.func @tied
// LOWERED-LABEL: func.func @tied
func.func @tied(%ids: !torch.vtensor<[?],si64>, %x: !torch.vtensor<[?,64],bf16>) -> (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[?,96],bf16>, !torch.vtensor<[?,32],bf16>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %m1 = torch.constant.int -1
  %w = "sparse_gemm.weight"() {name = "embed.weight", sparse_gemm.dense = "it isn't 2:4"} : () -> !torch.vtensor<[96,64],bf16>
  %b = "sparse_gemm.weight"() {name = "other.weight"} : () -> !torch.vtensor<[32,64],bf16>
  // CHECK: torch.aten.embedding %[[W:[0-9a-z]+]],
  // LOWERED: torch.aten.embedding
  %e = torch.aten.embedding %w, %ids, %m1, %false, %false : !torch.vtensor<[96,64],bf16>, !torch.vtensor<[?],si64>, !torch.int, !torch.bool, !torch.bool -> !torch.vtensor<[?,64],bf16>
  // CHECK: "sparse_gemm.linear"(%{{.*}}, %[[W]]) {epilogue = "none", format = "fp8"{{.*}}policy = "", sparse_gemm.head}
  // LOWERED: "sparse_gemm.packed_weight"() {format = "fp8", names = ["embed.weight"]{{.*}}!torch.tuple<vtensor<[96,64],f8E4M3FN>, vtensor<[96],f32>>
  // LOWERED: torch.operator "torch.sparseflow.linear_weight_only"
  %y = torch.aten.linear %x, %w, %none {sparse_gemm.reason = "skipped by the pattern '*embed*'"} : !torch.vtensor<[?,64],bf16>, !torch.vtensor<[96,64],bf16>, !torch.none -> !torch.vtensor<[?,96],bf16>
  // CHECK: torch.aten.linear
  %z = torch.aten.linear %x, %b, %none : !torch.vtensor<[?,64],bf16>, !torch.vtensor<[32,64],bf16>, !torch.none -> !torch.vtensor<[?,32],bf16>
  return %e, %y, %z : !torch.vtensor<[?,64],bf16>, !torch.vtensor<[?,96],bf16>, !torch.vtensor<[?,32],bf16>
}

// -----

// A head that is sparse already changes its format.
// CHECK-LABEL: func.func @sparse
func.func @sparse(%x: !torch.vtensor<[?,64],bf16>) -> !torch.vtensor<[?,96],bf16> {
  %w = "sparse_gemm.weight"() {name = "embed.weight"} : () -> !torch.vtensor<[96,64],bf16>
  // CHECK: "sparse_gemm.linear"{{.*}}format = "fp8"{{.*}}sparse_gemm.head
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[96,64],bf16>) -> !torch.vtensor<[?,96],bf16>
  return %y : !torch.vtensor<[?,96],bf16>
}
