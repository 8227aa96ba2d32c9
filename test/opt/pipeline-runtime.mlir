// RUN: sparseflow-opt %s --pipeline=runtime | FileCheck %s
// What is printed reproduces it.
// RUN: sparseflow-opt %s --pipeline=runtime --dump-pass-pipeline -o %t.named 2>%t.pipeline
// RUN: FileCheck %s --check-prefix=DUMP --input-file %t.pipeline
// DUMP: {{^}}builtin.module(causal-attention,drop-true-masks,form-decode-attention,canonicalize-linear,match-sparse-linear,explain-products,merge-projections,fuse-epilogue,choose-format,fuse-gate,lower-sparse-gemm,lower-contextual-mlp,lower-column-linear,lower-decode-attention){{$}}
// RUN: sparseflow-opt %s --pass-pipeline='builtin.module(causal-attention,drop-true-masks,form-decode-attention,canonicalize-linear,match-sparse-linear,explain-products,merge-projections,fuse-epilogue,choose-format,fuse-gate,lower-sparse-gemm,lower-contextual-mlp,lower-column-linear,lower-decode-attention)' -o %t.text
// RUN: diff %t.named %t.text

// An attention block as the frontend makes it: q, k and v merge, o follows, the router stays dense.
// CHECK-LABEL: func.func @main
func.func @main(%x: !torch.vtensor<[?,?,64],f32>) -> (!torch.vtensor<[?,?,64],f32>, !torch.vtensor<[?,?,4],f32>) {
  // CHECK: "sparse_gemm.packed_weight"() {format = "2:4", names = ["q.weight", "k.weight"], sizes = array<i64: 64, 64>, weight = !torch.vtensor<[128,64],f32>}
  // CHECK: torch.operator "torch.sparseflow.linear"
  // CHECK: torch.aten.slice.Tensor
  // CHECK: torch.aten.slice.Tensor
  // CHECK: torch.aten.mul.Tensor
  // CHECK: "sparse_gemm.packed_weight"() {format = "2:4", names = ["o.weight"], weight = !torch.vtensor<[64,64],f32>}
  // CHECK: torch.operator "torch.sparseflow.linear"
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "N = 4 is below min-n = 16"}
  // CHECK-NOT: sparse_gemm.linear
  %none = torch.constant.none
  %wq = "sparse_gemm.weight"() {name = "q.weight"} : () -> !torch.vtensor<[64,64],f32>
  %q = torch.aten.linear %x, %wq, %none : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[64,64],f32>, !torch.none -> !torch.vtensor<[?,?,64],f32>
  %wk = "sparse_gemm.weight"() {name = "k.weight"} : () -> !torch.vtensor<[64,64],f32>
  %k = torch.aten.linear %x, %wk, %none : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[64,64],f32>, !torch.none -> !torch.vtensor<[?,?,64],f32>
  %a = torch.aten.mul.Tensor %q, %k : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[?,?,64],f32> -> !torch.vtensor<[?,?,64],f32>
  %wo = "sparse_gemm.weight"() {name = "o.weight"} : () -> !torch.vtensor<[64,64],f32>
  %o = torch.aten.linear %a, %wo, %none : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[64,64],f32>, !torch.none -> !torch.vtensor<[?,?,64],f32>
  %wr = "sparse_gemm.weight"() {name = "router.weight"} : () -> !torch.vtensor<[4,64],f32>
  %r = torch.aten.linear %o, %wr, %none : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[4,64],f32>, !torch.none -> !torch.vtensor<[?,?,4],f32>
  return %o, %r : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[?,?,4],f32>
}
