// RUN: sparseflow-opt %s --split-input-file --lower-sparse-gemm | FileCheck %s
// RUN: echo '{}' > %t.json
// RUN: sparseflow-opt %s --split-input-file --pass-pipeline='builtin.module(apply-policy{table=%t.json memory=compressed},lower-sparse-gemm)' | FileCheck %s --check-prefix=COMPRESSED
// RUN: sparseflow-opt %s --split-input-file --pass-pipeline='builtin.module(apply-policy{table=%t.json memory=compressed},apply-policy{table=%t.json memory=fast},lower-sparse-gemm)' | FileCheck %s

// The dense weight is read where the layer says that it is kept.
// COMPRESSED-NOT: sparse_gemm.pruned_weight
// CHECK-LABEL: func.func @mixed
func.func @mixed(%x: !torch.vtensor<[?,64],bf16>) -> !torch.vtensor<[?,32],bf16> {
  // CHECK: %[[PT:.*]] = "sparse_gemm.packed_weight"() {format = "2:4", names = ["a", "b"], sizes = array<i64: 20, 12>, transposed = array<i1: false, true>, weight = !torch.vtensor<[32,64],bf16>}
  // CHECK: %[[P:.*]]:2 = torch.prim.TupleUnpack %[[PT]]
  // CHECK: %[[D:.*]] = "sparse_gemm.pruned_weight"() {format = "2:4", names = ["a", "b"], sizes = array<i64: 20, 12>, transposed = array<i1: false, true>} : () -> !torch.vtensor<[32,64],bf16>
  // CHECK: torch.constant.int 256
  // cusparselt@7/-1: 2 | 7 << 8 | 255 << 24
  // CHECK: torch.constant.int 4278191874
  // CHECK: torch.operator "torch.sparseflow.linear"(%arg0, %[[P]]#0, %[[P]]#1, {{.*}}, %[[D]])
  %w = "sparse_gemm.merged_weight"() {names = ["a", "b"], sizes = array<i64: 20, 12>, transposed = array<i1: false, true>} : () -> !torch.vtensor<[32,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", keeps_dense, policy = "1:dense,256:cusparselt@7/-1", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[32,64],bf16>) -> !torch.vtensor<[?,32],bf16>
  return %y : !torch.vtensor<[?,32],bf16>
}

// -----

// CHECK-LABEL: func.func @always_sparse
func.func @always_sparse(%x: !torch.vtensor<[?,64],f16>) -> !torch.vtensor<[?,32],f16> {
  // CHECK-NOT: sparse_gemm.pruned_weight
  // CHECK: torch.operator "torch.sparseflow.linear"
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "1:cusparselt@3,64:cusparselt@5", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f16>, !torch.vtensor<[32,64],f16>) -> !torch.vtensor<[?,32],f16>
  return %y : !torch.vtensor<[?,32],f16>
}
