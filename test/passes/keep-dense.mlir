// RUN: echo '{"a.weight": "because", "none.weight": "of nobody"}' > %t.json
// RUN: sparseflow-opt %s --keep-dense=table=%t.json | FileCheck %s
// RUN: sparseflow-opt %s --pass-pipeline='keep-dense{table='"'"'{"a.weight": "because"}'"'"'}' | FileCheck %s
// RUN: sparseflow-opt %s --keep-dense=table=%t.json --match-sparse-linear | FileCheck %s --check-prefix=MATCHED

// The weight that the table knows is marked, and the layer that reads it stays dense for that reason.
// CHECK: "sparse_gemm.weight"() {name = "a.weight", sparse_gemm.dense = "because"}
// CHECK: "sparse_gemm.weight"() {name = "b.weight"}
// MATCHED: torch.aten.linear {{.*}} {sparse_gemm.reason = "because"}
// MATCHED: "sparse_gemm.linear"
func.func @main(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,32],f32> {
  %none = torch.constant.none
  %a = "sparse_gemm.weight"() {name = "a.weight"} : () -> !torch.vtensor<[64,64],f32>
  %b = "sparse_gemm.weight"() {name = "b.weight"} : () -> !torch.vtensor<[32,64],f32>
  %y = torch.aten.linear %x, %a, %none : !torch.vtensor<[?,64],f32>, !torch.vtensor<[64,64],f32>, !torch.none -> !torch.vtensor<[?,64],f32>
  %z = torch.aten.linear %y, %b, %none : !torch.vtensor<[?,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[?,32],f32>
  return %z : !torch.vtensor<[?,32],f32>
}
