// A failing pass says which one it was, where, and how to see it again: what it names must fail the same way.
// RUN: not sparseflow-opt %s --cse --lower-sparse-gemm --canonicalize >%t 2>%t.err
// RUN: test ! -s %t
// RUN: FileCheck %s --input-file %t.err
// RUN: not sparseflow-opt '--pass-pipeline=builtin.module(cse,lower-sparse-gemm)' %s 2>&1 | FileCheck %s

// CHECK: sparseflow-opt: error: pass 'lower-sparse-gemm': refuses {{.*}}failing-pass.mlir:15:8: 'sparse_gemm.linear' op has a weight that is computed at run time
// CHECK-NEXT: Keep such a layer as torch.aten.linear.
// CHECK-NEXT: Reproduce it with: sparseflow-opt '--pass-pipeline=builtin.module(cse,lower-sparse-gemm)' {{.*}}failing-pass.mlir
// CHECK-NOT: Traceback

// RUN: not sparseflow-opt --lower-sparse-gemm < %s 2>&1 | FileCheck %s --check-prefix=STDIN
// STDIN: Reproduce it with: sparseflow-opt '--pass-pipeline=builtin.module(lower-sparse-gemm)' {{.*}}sparseflow-{{.*}}.mlir
func.func @main(%x: !torch.vtensor<[4,64],f32>, %w: !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[4,32],f32> {
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[4,32],f32>
  return %y : !torch.vtensor<[4,32],f32>
}
