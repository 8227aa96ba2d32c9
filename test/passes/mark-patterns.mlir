// RUN: echo '{"a.weight": "6:8", "none.weight": "4:6"}' > %t.json
// RUN: sparseflow-opt %s --mark-patterns=table=%t.json | FileCheck %s
// RUN: sparseflow-opt %s --mark-patterns=table=%t.json --match-sparse-linear | FileCheck %s --check-prefix=MATCHED
// RUN: sparseflow-opt %s --mark-patterns=table=%t.json --match-sparse-linear --choose-format=format=2:4-fp8 | FileCheck %s --check-prefix=FP8
// RUN: sparseflow-opt %s --mark-patterns=table=%t.json --match-sparse-linear --choose-format=format=6:8 | FileCheck %s --check-prefix=BOTH

// The weight that the table knows is marked; the layer that reads it has the format of its pattern, unless another
// format stores that pattern too. What is 2:4 is 6:8 as well.
// CHECK: "sparse_gemm.weight"() {name = "a.weight", sparse_gemm.pattern = "6:8"}
// CHECK: "sparse_gemm.weight"() {name = "b.weight"}
// MATCHED: "sparse_gemm.linear"{{.*}}format = "6:8"
// MATCHED: "sparse_gemm.linear"{{.*}}format = "2:4"
// FP8: "sparse_gemm.linear"{{.*}}format = "6:8"{{.*}}sparse_gemm.format_refused = "its weight is 6:8, not 2:4"
// FP8: "sparse_gemm.linear"{{.*}}format = "2:4-fp8"
// BOTH: "sparse_gemm.linear"{{.*}}format = "6:8"
// BOTH: "sparse_gemm.linear"{{.*}}format = "6:8"
func.func @main(%x: !torch.vtensor<[?,64],bf16>) -> !torch.vtensor<[?,128],bf16> {
  %none = torch.constant.none
  %a = "sparse_gemm.weight"() {name = "a.weight"} : () -> !torch.vtensor<[64,64],bf16>
  %b = "sparse_gemm.weight"() {name = "b.weight"} : () -> !torch.vtensor<[128,64],bf16>
  %y = torch.aten.linear %x, %a, %none : !torch.vtensor<[?,64],bf16>, !torch.vtensor<[64,64],bf16>, !torch.none -> !torch.vtensor<[?,64],bf16>
  %z = torch.aten.linear %y, %b, %none : !torch.vtensor<[?,64],bf16>, !torch.vtensor<[128,64],bf16>, !torch.none -> !torch.vtensor<[?,128],bf16>
  return %z : !torch.vtensor<[?,128],bf16>
}
