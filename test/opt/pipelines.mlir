// Every way to say which passes to run.
// RUN: sparseflow-opt %s | FileCheck %s --check-prefix=NONE
// RUN: sparseflow-opt %s --match-sparse-linear | FileCheck %s
// RUN: sparseflow-opt --match-sparse-linear %s | FileCheck %s
// RUN: sparseflow-opt - --match-sparse-linear < %s | FileCheck %s
// RUN: sparseflow-opt --match-sparse-linear < %s | FileCheck %s
// RUN: sparseflow-opt %s --pass-pipeline=match-sparse-linear | FileCheck %s
// RUN: sparseflow-opt %s --pass-pipeline 'builtin.module(func.func(canonicalize, cse),match-sparse-linear{min-n=1 skip=a,b})' | FileCheck %s
// RUN: sparseflow-opt %s --pass-pipeline='builtin.module(builtin.module(cse),func.func(torch-decompose-complex-ops{legal-ops=aten.linear}),match-sparse-linear)' | FileCheck %s
// RUN: sparseflow-opt %s --cse --canonicalize="max-iterations=2" --match-sparse-linear="" | FileCheck %s
// RUN: sparseflow-opt %s --pass-pipeline="" | FileCheck %s --check-prefix=NONE
// RUN: sparseflow-opt %s --pass-pipeline="builtin.module()" | FileCheck %s --check-prefix=NONE
// RUN: sparseflow-opt %s --match-sparse-linear=skip=* --lower-sparse-gemm | FileCheck %s --check-prefix=SKIPPED
// RUN: sparseflow-opt %s --lower-sparse-gemm --match-sparse-linear | FileCheck %s
// RUN: sparseflow-opt %s -o %t --match-sparse-linear > %t.out && test ! -s %t.out
// RUN: FileCheck %s --input-file %t

// NONE: torch.aten.linear %arg0, %0, %none : !torch
// CHECK: "sparse_gemm.linear"
// SKIPPED: reason = "skipped by the pattern '*'"
func.func @main(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,32],f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %none = torch.constant.none
  %y = torch.aten.linear %x, %w, %none : !torch.vtensor<[?,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[?,32],f32>
  return %y : !torch.vtensor<[?,32],f32>
}
