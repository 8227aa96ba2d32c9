// RUN: sparseflow-opt %s --choose-format="format=2:4-fp8 skip=*.down" | FileCheck %s
// RUN: echo '{"f8E4M3FN:64x64": "1:cusparselt@7", "bf16:64x64": "1:cusparselt@3"}' > %t.json
// RUN: sparseflow-opt %s --pass-pipeline='builtin.module(choose-format{format=2:4-fp8 skip=*.down},apply-policy{table=%t.json})' | FileCheck %s --check-prefix=POLICY

// A policy is looked up by the dtype that is multiplied.
func.func @main(%x: !torch.vtensor<[?,64],bf16>) -> !torch.vtensor<[?,64],bf16> {
  %up = "sparse_gemm.weight"() {name = "mlp.up.weight"} : () -> !torch.vtensor<[64,64],bf16>
  %down = "sparse_gemm.weight"() {name = "mlp.down.weight"} : () -> !torch.vtensor<[64,64],bf16>
  // CHECK: format = "2:4-fp8"
  // POLICY: format = "2:4-fp8"{{.*}}policy = "1:cusparselt@7"
  %y = "sparse_gemm.linear"(%x, %up) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,64],bf16>
  // CHECK: sparse_gemm.format_refused = "skipped by the pattern '*.down'"
  // POLICY: policy = "1:cusparselt@3", sparse_gemm.format_refused
  %z = "sparse_gemm.linear"(%y, %down) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,64],bf16>
  return %z : !torch.vtensor<[?,64],bf16>
}
