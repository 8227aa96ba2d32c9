// RUN: sparseflow-opt %s --match-sparse-linear="min-n=1 min-k=1" | FileCheck %s --check-prefix=ALL
// RUN: sparseflow-opt %s --match-sparse-linear="min-n=9 min-k=4" | FileCheck %s --check-prefix=WIDE
// RUN: sparseflow-opt %s --match-sparse-linear="skip='a b,*.fc'" | FileCheck %s --check-prefix=SKIP

// The limits are inclusive; a pattern may hold a space when quoted.
func.func @main(%x: !torch.vtensor<[?,4],f32>) {
  // ALL: "sparse_gemm.linear"
  // WIDE: {sparse_gemm.reason = "N = 8 is below min-n = 9"}
  // SKIP: {sparse_gemm.reason = "skipped by the pattern 'a b'"}
  %none = torch.constant.none
  %w0 = "sparse_gemm.weight"() {name = "a b.weight"} : () -> !torch.vtensor<[8,4],f32>
  %0 = torch.aten.linear %x, %w0, %none : !torch.vtensor<[?,4],f32>, !torch.vtensor<[8,4],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  // ALL: "sparse_gemm.linear"
  // WIDE: "sparse_gemm.linear"
  // SKIP: {sparse_gemm.reason = "skipped by the pattern '*.fc'"}
  %w1 = "sparse_gemm.weight"() {name = "model.fc.weight"} : () -> !torch.vtensor<[9,4],f32>
  %1 = torch.aten.linear %x, %w1, %none : !torch.vtensor<[?,4],f32>, !torch.vtensor<[9,4],f32>, !torch.none -> !torch.vtensor<[?,9],f32>
  return
}
