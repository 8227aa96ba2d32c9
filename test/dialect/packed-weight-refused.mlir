// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

// expected-error@+1 {{'sparse_gemm.packed_weight' op needs a 'format' that is one of '2:4', '4:6', '6:8', '2:4-fp8', 'fp8', 'int8', not '1:4'}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "1:4", weight = !torch.vtensor<[8,8],f32>} : () -> !torch.tuple<vtensor<[8,4],f32>, vtensor<[8,1],ui8>>

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op needs a 'format' that is one of '2:4', '4:6', '6:8', '2:4-fp8', 'fp8', 'int8', not none}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], weight = !torch.vtensor<[8,8],f32>} : () -> !torch.tuple<vtensor<[8,4],f32>, vtensor<[8,1],ui8>>

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op names 'a' more than once}}
%0 = "sparse_gemm.packed_weight"() {names = ["a", "a"], format = "2:4", weight = !torch.vtensor<[8,8],f32>} : () -> !torch.tuple<vtensor<[8,4],f32>, vtensor<[8,1],ui8>>

// -----

// expected-error@+1 {{needs a type 'weight' such as !torch.vtensor<[8,64],bf16>, not none}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4"} : () -> !torch.tuple<vtensor<[8,4],f32>, vtensor<[8,1],ui8>>

// -----

// expected-error@+1 {{needs a type 'weight' such as !torch.vtensor<[8,64],bf16>, not '!torch.vtensor<[8,?],f32>'}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4", weight = !torch.vtensor<[8,?],f32>} : () -> !torch.tuple<vtensor<[8,4],f32>, vtensor<[8,1],ui8>>

// -----

// expected-error@+1 {{needs a type 'weight' such as !torch.vtensor<[8,64],bf16>, not '!torch.vtensor<[8],f32>'}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4", weight = !torch.vtensor<[8],f32>} : () -> !torch.tuple<vtensor<[8,4],f32>, vtensor<[8,1],ui8>>

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op can't be '2:4': it is f64; 2:4 stores f32, f16, bf16}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4", weight = !torch.vtensor<[8,8],f64>} : () -> !torch.tuple<vtensor<[8,4],f64>, vtensor<[8,1],ui8>>

// -----

// expected-error@+1 {{can't be '2:4-fp8': N and K must be multiples of 64, got N=8, K=64}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4-fp8", weight = !torch.vtensor<[8,64],bf16>} : () -> !torch.tuple<vtensor<[8,32],f8E4M3FN>, vtensor<[8,8],ui8>, vtensor<[8],f32>>

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op must return values, positions, '!torch.tuple<vtensor<[8,4],f32>, vtensor<[8,1],ui8>>', not '!torch.vtensor<[8,4],f32>'}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4", weight = !torch.vtensor<[8,8],f32>} : () -> !torch.vtensor<[8,4],f32>

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op must return values, positions, scales, '!torch.tuple<vtensor<[64,32],f8E4M3FN>, vtensor<[64,8],ui8>, vtensor<[64],f32>>', not '!torch.tuple<vtensor<[64,32],f8E4M3FN>, vtensor<[64,8],ui8>>'}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4-fp8", weight = !torch.vtensor<[64,64],bf16>} : () -> !torch.tuple<vtensor<[64,32],f8E4M3FN>, vtensor<[64,8],ui8>>

// -----

// expected-error@+1 {{not '!torch.tuple<vtensor<[8,4],f16>, vtensor<[8,1],ui8>>'}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4", weight = !torch.vtensor<[8,8],f32>} : () -> !torch.tuple<vtensor<[8,4],f16>, vtensor<[8,1],ui8>>

// -----

// expected-error@+1 {{not '!torch.tuple<vtensor<[8,4],f32>, int>'}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4", weight = !torch.vtensor<[8,8],f32>} : () -> !torch.tuple<vtensor<[8,4],f32>, int>

// -----

// expected-error@+1 {{not '!torch.tuple<vtensor<[8,4],f32>, vtensor<[7,1],ui8>>'}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4", weight = !torch.vtensor<[8,8],f32>} : () -> !torch.tuple<vtensor<[8,4],f32>, vtensor<[7,1],ui8>>

// -----

// expected-error@+1 {{not '!torch.tuple<vtensor<[64,32],f8E4M3FN>, vtensor<[64,8],ui8>, vtensor<[64],bf16>>'}}
%0 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4-fp8", weight = !torch.vtensor<[64,64],bf16>} : () -> !torch.tuple<vtensor<[64,32],f8E4M3FN>, vtensor<[64,8],ui8>, vtensor<[64],bf16>>

// -----

// expected-error@+1 {{'sizes' add up to 7, but the result has N = 8}}
%0 = "sparse_gemm.packed_weight"() {names = ["a", "b"], sizes = array<i64: 3, 4>, format = "2:4", weight = !torch.vtensor<[8,8],f32>} : () -> !torch.tuple<vtensor<[8,4],f32>, vtensor<[8,1],ui8>>
