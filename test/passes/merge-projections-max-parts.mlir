// RUN: sparseflow-opt %s --merge-projections=max-parts=2 | FileCheck %s --check-prefix=TWO
// RUN: sparseflow-opt %s --merge-projections=max-parts=1 | FileCheck %s --check-prefix=ONE
// RUN: sparseflow-opt %s --merge-projections=max-parts=0 | FileCheck %s --check-prefix=ONE

// TWO-COUNT-2: torch.aten.linear
// TWO-NOT: torch.aten.linear
// ONE-NOT: merged_weight
// ONE-COUNT-3: torch.aten.linear
func.func @main(%x: !torch.vtensor<[3,64],f32>) {
  %none = torch.constant.none
  %a = "sparse_gemm.weight"() {name = "a"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32,64],f32>
  %c = "sparse_gemm.weight"() {name = "c"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %a, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.linear %x, %b, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %2 = torch.aten.linear %x, %c, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  return
}
