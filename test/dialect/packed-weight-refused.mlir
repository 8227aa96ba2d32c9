// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

// expected-error@+1 {{'sparse_gemm.packed_weight' op needs a 'pattern' that is one of '2:4', not '1:4'}}
%0:2 = "sparse_gemm.packed_weight"() {names = ["a"], pattern = "1:4"} : () -> (!torch.vtensor<[8,4],f32>, !torch.vtensor<[8,1],ui8>)

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op needs a 'pattern' that is one of '2:4', not none}}
%0:2 = "sparse_gemm.packed_weight"() {names = ["a"]} : () -> (!torch.vtensor<[8,4],f32>, !torch.vtensor<[8,1],ui8>)

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op names 'a' more than once}}
%0:2 = "sparse_gemm.packed_weight"() {names = ["a", "a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,4],f32>, !torch.vtensor<[8,1],ui8>)

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op must return two !torch.vtensor, values and positions}}
%0:2 = "sparse_gemm.packed_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,4],f32>, i32)

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op must have values of f32, f16, bf16, not f64}}
%0:2 = "sparse_gemm.packed_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,4],f64>, !torch.vtensor<[8,1],ui8>)

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op must have positions of ui8, not si8}}
%0:2 = "sparse_gemm.packed_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,4],f32>, !torch.vtensor<[8,1],si8>)

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op must return two matrices, values and positions}}
%0:2 = "sparse_gemm.packed_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,4],f32>, !torch.vtensor<[8],ui8>)

// -----

// expected-error@+1 {{'sparse_gemm.packed_weight' op has 8 rows of values but 7 of positions}}
%0:2 = "sparse_gemm.packed_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,4],f32>, !torch.vtensor<[7,1],ui8>)

// -----

// expected-error@+1 {{has values of width 10 and positions of 2, not Kp/2 and ceil(Kp/8)}}
%0:2 = "sparse_gemm.packed_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,10],f32>, !torch.vtensor<[8,2],ui8>)

// -----

// expected-error@+1 {{has values of width 3 and positions of 1, not Kp/2 and ceil(Kp/8)}}
%0:2 = "sparse_gemm.packed_weight"() {names = ["a"], pattern = "2:4"} : () -> (!torch.vtensor<[8,3],f32>, !torch.vtensor<[8,1],ui8>)
