// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

// expected-error@+1 {{'sparse_gemm.pruned_weight' op needs a 'format' that is one of '2:4', '4:6', '6:8', '2:4-fp8', 'fp8', 'int8', not '1:4'}}
%0 = "sparse_gemm.pruned_weight"() {names = ["a"], format = "1:4"} : () -> !torch.vtensor<[8,4],f32>

// -----

// expected-error@+1 {{'sparse_gemm.pruned_weight' op names 'a' more than once}}
%0 = "sparse_gemm.pruned_weight"() {names = ["a", "a"], format = "2:4"} : () -> !torch.vtensor<[8,4],f32>

// -----

// expected-error@+1 {{'sparse_gemm.pruned_weight' op must return a !torch.vtensor of rank 2, not 'i32'}}
%0 = "sparse_gemm.pruned_weight"() {names = ["a"], format = "2:4"} : () -> i32

// -----

// expected-error@+1 {{'sparse_gemm.pruned_weight' op must return a !torch.vtensor of rank 2, not '!torch.vtensor<[8],f32>'}}
%0 = "sparse_gemm.pruned_weight"() {names = ["a"], format = "2:4"} : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.pruned_weight' op must be of f32, f16, bf16, not f64}}
%0 = "sparse_gemm.pruned_weight"() {names = ["a"], format = "2:4"} : () -> !torch.vtensor<[8,4],f64>

// -----

// expected-error@+1 {{'sizes' add up to 7, but the result has N = 8}}
%0 = "sparse_gemm.pruned_weight"() {names = ["a", "b"], sizes = array<i64: 3, 4>, format = "2:4"} : () -> !torch.vtensor<[8,4],f32>

// -----

// expected-error@+1 {{'sparse_gemm.pruned_weight' op 'turned' must be a unit attribute}}
%0 = "sparse_gemm.pruned_weight"() {names = ["a"], format = "2:4", turned = true} : () -> !torch.vtensor<[8,4],f32>

// -----

// expected-error@+1 {{'sparse_gemm.pruned_weight' op 'sizes' add up to 8, but the result has N = 4}}
%0 = "sparse_gemm.pruned_weight"() {names = ["a"], sizes = array<i64: 8>, format = "2:4", turned} : () -> !torch.vtensor<[8,4],f32>

// -----

// expected-error@+1 {{'sparse_gemm.pruned_weight' op must be of f8E4M3FN, not bf16}}
%0 = "sparse_gemm.pruned_weight"() {names = ["a"], format = "2:4-fp8"} : () -> !torch.vtensor<[64,64],bf16>
