// A typo in an expectation must not turn it into a comment.
// RUN: not sparseflow-opt %s --verify-diagnostics 2>&1 | FileCheck %s
// CHECK: verify-diagnostics-malformed.mlir:5: has an expectation that can't be read

// expected-error@1+ {{op needs}}
module {}
