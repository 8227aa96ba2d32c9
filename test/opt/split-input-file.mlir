// RUN: sparseflow-opt %s --split-input-file | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file | sparseflow-opt --split-input-file | FileCheck %s
// RUN: not sparseflow-opt %s 2>&1 | FileCheck %s --check-prefix=WHOLE

// WHOLE: split-input-file.mlir:{{[0-9]+}}:1: redefinition of symbol named 'f'
// CHECK: func.func @f
// CHECK: // -----
// CHECK: func.func @f
func.func @f() { return }
// -----
func.func @f() { return }
// -----
// Nothing but a comment is an empty module.
