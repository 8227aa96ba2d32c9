// RUN: sparseflow-opt %s --canonicalize-linear --match-sparse-linear --mlir-print-ir-after-all 2>&1 >%t | FileCheck %s --check-prefix=AFTER
// RUN: FileCheck %s --input-file %t --check-prefix=OUT
// AFTER: // -----// IR Dump After canonicalize-linear //----- //
// AFTER: torch.aten.linear
// AFTER: // -----// IR Dump After match-sparse-linear //----- //
// AFTER: "sparse_gemm.linear"
// OUT-NOT: IR Dump
// OUT: "sparse_gemm.linear"

// RUN: sparseflow-opt %s --mlir-print-debuginfo --match-sparse-linear | FileCheck %s --check-prefix=LOC
// Rewriting keeps the place in the model.
// LOC: "sparse_gemm.linear"{{.*}} loc(#[[LOC:.*]])
// LOC: #[[LOC]] = loc("model.py":7:3)

// RUN: sparseflow-opt %s --mlir-timing --cse --match-sparse-linear 2>&1 >%t | FileCheck %s --check-prefix=TIME
// TIME: s  cse
// TIME-NEXT: s  match-sparse-linear

// RUN: sparseflow-opt %s --emit-bytecode -o %t --match-sparse-linear && sparseflow-opt %t --lower-sparse-gemm | FileCheck %s --check-prefix=LOWERED
// LOWERED: torch.sparseflow.linear

func.func @main(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,32],f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %none = torch.constant.none
  %y = torch.aten.linear %x, %w, %none : !torch.vtensor<[?,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[?,32],f32> loc("model.py":7:3)
  return %y : !torch.vtensor<[?,32],f32>
}
