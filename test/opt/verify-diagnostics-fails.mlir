// What --verify-diagnostics finds wrong; each chunk breaks its own expectation.
// RUN: not sparseflow-opt %s --split-input-file --verify-diagnostics >%t 2>%t.err
// RUN: test ! -s %t
// RUN: FileCheck %s --input-file %t.err

// CHECK: verify-diagnostics-fails.mlir:{{[0-9]+}}: expected error "never said" was not reported
// expected-error@+1 {{never said}}
module {}

// -----

// CHECK: unexpected error: {{.*}}verify-diagnostics-fails.mlir:{{[0-9]+}}:1: error: 'sparse_gemm.weight' op needs
"sparse_gemm.weight"() : () -> !torch.vtensor<[8],f32>

// -----

// The right text on the wrong line.
// CHECK: unexpected error: {{.*}} 'sparse_gemm.weight' op needs
// CHECK: expected error "op needs" was not reported
// expected-error {{op needs}}
"sparse_gemm.weight"() : () -> !torch.vtensor<[8],f32>

// -----

// The right text of the wrong kind.
// CHECK: unexpected error: {{.*}} 'sparse_gemm.weight' op needs
// CHECK: expected warning "op needs" was not reported
// expected-warning@+1 {{op needs}}
"sparse_gemm.weight"() : () -> !torch.vtensor<[8],f32>

// -----

// One report doesn't fulfil two expectations.
// CHECK-NOT: unexpected
// CHECK: expected error "op needs" was not reported
// expected-error@+2 {{op needs}}
// expected-error@+1 {{op needs}}
"sparse_gemm.weight"() : () -> !torch.vtensor<[8],f32>
