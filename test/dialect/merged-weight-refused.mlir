// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

// expected-error@+1 {{'sparse_gemm.merged_weight' op needs an array of strings 'names'}}
%0 = "sparse_gemm.merged_weight"() : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.merged_weight' op needs an array of strings 'names'}}
%0 = "sparse_gemm.merged_weight"() {names = ["a", 1 : i64]} : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.merged_weight' op needs at least one name and no empty one in 'names'}}
%0 = "sparse_gemm.merged_weight"() {names = []} : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.merged_weight' op needs at least one name and no empty one in 'names'}}
%0 = "sparse_gemm.merged_weight"() {names = ["a", ""]} : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.merged_weight' op names 'a' more than once}}
%0 = "sparse_gemm.merged_weight"() {names = ["a", "b", "a"]} : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.merged_weight' op must return a !torch.vtensor of rank 1 or 2, not '!torch.vtensor<[8,8,8],f32>'}}
%0 = "sparse_gemm.merged_weight"() {names = ["a", "b"]} : () -> !torch.vtensor<[8,8,8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.merged_weight' op 'transposed' must be an array of one i1 for each name}}
%0 = "sparse_gemm.merged_weight"() {names = ["a", "b"], transposed = array<i1: true>} : () -> !torch.vtensor<[8,8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.merged_weight' op is 'transposed' but of rank 1; only a matrix can be}}
%0 = "sparse_gemm.merged_weight"() {names = ["a", "b"], transposed = array<i1: true, false>} : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.merged_weight' op 'sizes' must be an array of one i64 for each name}}
%0 = "sparse_gemm.merged_weight"() {names = ["a", "b"], sizes = [4, 4]} : () -> !torch.vtensor<[8,8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.merged_weight' op 'sizes' add up to 9, but the result has N = 8}}
%0 = "sparse_gemm.merged_weight"() {names = ["a", "b"], sizes = array<i64: 4, 5>} : () -> !torch.vtensor<[8,8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.merged_weight' op needs sizes of at least 0, not -1}}
%0 = "sparse_gemm.merged_weight"() {names = ["a", "b"], sizes = array<i64: 9, -1>} : () -> !torch.vtensor<[8,8],f32>
