// Recorded decisions and measurements, and what a pipeline leaves for later ones.
// RUN: echo '{"f32:64x64": "1:cpu,512:dense", "f32:32x64": {"dense": "slower"}}' > %t.policies.json
// RUN: echo '{"f32:64x64": {"policy": "1:cpu,512:dense", "keeps_dense": true}, "f32:32x64": {"dense": "slower"}}' > %t.kept.json
// RUN: echo '{"c.weight": "because"}' > %t.dense.json

// RUN: sparseflow-opt %s --pipeline='runtime{memory=fast policies=%t.policies.json dense=%t.dense.json}' | FileCheck %s --check-prefix=FAST
// FAST: "sparse_gemm.pruned_weight"() {format = "2:4", names = ["a.weight"]
// FAST: torch.operator "torch.sparseflow.linear"
// FAST: torch.aten.linear {{.*}} {sparse_gemm.reason = "slower"}
// FAST: torch.aten.linear {{.*}} {sparse_gemm.reason = "because"}

// The table says what is kept, unless the mode does.
// RUN: sparseflow-opt %s --pipeline='runtime{policies=%t.kept.json dense=%t.dense.json}' | FileCheck %s --check-prefix=FAST
// RUN: sparseflow-opt %s --pipeline='runtime{policies=%t.policies.json}' | FileCheck %s --check-prefix=ALONE
// RUN: sparseflow-opt %s --pipeline='runtime{memory=compressed policies=%t.kept.json}' | FileCheck %s --check-prefix=ALONE
// ALONE-NOT: sparse_gemm.pruned_weight

// RUN: sparseflow-opt %s --pipeline='sparse-gemm{policies=%t.policies.json skip=a,c}' --dump-pass-pipeline 2>&1 | FileCheck %s --check-prefix=POLICIES
// POLICIES: builtin.module({{.*}},match-sparse-linear{skip=a,c},explain-products,{{.*}},apply-policy{table={{.*}}policies.json})
// POLICIES-COUNT-2: sparse_gemm.reason = "skipped by the pattern
// POLICIES-NOT: torch.sparseflow

// RUN: sparseflow-opt %s --pipeline=sparse-gemm | FileCheck %s --check-prefix=ALWAYS
// ALWAYS-COUNT-3: "sparse_gemm.linear"{{.*}}policy = ""

// RUN: sparseflow-opt %s --pipeline=canonical | FileCheck %s --check-prefix=CANONICAL
// CANONICAL-NOT: sparse_gemm.reason
// CANONICAL-COUNT-3: torch.aten.linear
func.func @main(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,48],f32> {
  %none = torch.constant.none
  %a = "sparse_gemm.weight"() {name = "a.weight"} : () -> !torch.vtensor<[64,64],f32>
  %y = torch.aten.linear %x, %a, %none : !torch.vtensor<[?,64],f32>, !torch.vtensor<[64,64],f32>, !torch.none -> !torch.vtensor<[?,64],f32>
  %b = "sparse_gemm.weight"() {name = "b.weight"} : () -> !torch.vtensor<[32,64],f32>
  %z = torch.aten.linear %y, %b, %none : !torch.vtensor<[?,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[?,32],f32>
  %c = "sparse_gemm.weight"() {name = "c.weight"} : () -> !torch.vtensor<[48,32],f32>
  %w = torch.aten.linear %z, %c, %none : !torch.vtensor<[?,32],f32>, !torch.vtensor<[48,32],f32>, !torch.none -> !torch.vtensor<[?,48],f32>
  return %w : !torch.vtensor<[?,48],f32>
}
