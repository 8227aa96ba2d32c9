// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

// expected-error@+1 {{'sparse_gemm.weight' op needs a non-empty string 'name'}}
%0 = "sparse_gemm.weight"() : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.weight' op needs a non-empty string 'name'}}
%0 = "sparse_gemm.weight"() {name = ""} : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.weight' op needs a non-empty string 'name'}}
%0 = "sparse_gemm.weight"() {name = 3 : i64} : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.weight' op must return a !torch.vtensor, not 'i32'}}
%0 = "sparse_gemm.weight"() {name = "a"} : () -> i32

// -----

// A tensor with reference semantics could be written to.
// expected-error@+1 {{'sparse_gemm.weight' op must return a !torch.vtensor, not '!torch.tensor<[8],f32>'}}
%0 = "sparse_gemm.weight"() {name = "a"} : () -> !torch.tensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.weight' op 'transposed' must be a unit attribute}}
%0 = "sparse_gemm.weight"() {name = "a", transposed = true} : () -> !torch.vtensor<[8,8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.weight' op is 'contiguous' but of rank 1; only a matrix can be}}
%0 = "sparse_gemm.weight"() {name = "a", contiguous} : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.weight' op is 'transposed' but of rank 1; only a matrix can be}}
%0 = "sparse_gemm.weight"() {name = "a", transposed} : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+1 {{'sparse_gemm.weight' op 'sparse_gemm.dense' must be a string that says why}}
%0 = "sparse_gemm.weight"() {name = "a", sparse_gemm.dense} : () -> !torch.vtensor<[8],f32>
