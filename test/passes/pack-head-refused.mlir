// RUN: sparseflow-opt %s --pack-head="weight=lm_head.weight format=int8" | FileCheck %s
// RUN: not sparseflow-opt %s --pack-head 2>&1 | FileCheck %s --check-prefix=NONE
// RUN: not sparseflow-opt %s --pack-head="weight=lm_head.weight format=int3" 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// NONE: pass 'pack-head': has no weight or format
// UNKNOWN: must be one of 2:4, 4:6, 6:8, 2:4-fp8, fp8, int8, not 'int3'

// CHECK: torch.aten.linear {{.*}}sparse_gemm.reason = "not in int8: {{.*}}f64
func.func @main(%x: !torch.vtensor<[?,64],f64>) -> !torch.vtensor<[?,96],f64> {
  %none = torch.constant.none
  %w = "sparse_gemm.weight"() {name = "lm_head.weight"} : () -> !torch.vtensor<[96,64],f64>
  %y = torch.aten.linear %x, %w, %none {sparse_gemm.reason = "skipped by the pattern 'lm_head'"} : !torch.vtensor<[?,64],f64>, !torch.vtensor<[96,64],f64>, !torch.none -> !torch.vtensor<[?,96],f64>
  return %y : !torch.vtensor<[?,96],f64>
}
