// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

"sparse_gemm.weight"() : () -> !torch.vtensor<[8],f32> // expected-error {{needs a non-empty string 'name'}}

// -----

"sparse_gemm.weight"() : () -> !torch.vtensor<[8],f32>
// expected-error@above {{needs a non-empty string 'name'}}

// -----

// expected-error@below {{needs a non-empty string 'name'}}
"sparse_gemm.weight"() : () -> !torch.vtensor<[8],f32>

// -----

// expected-error@+3 {{needs a non-empty string 'name'}}


"sparse_gemm.weight"() : () -> !torch.vtensor<[8],f32>

// -----

// A place outside this file is unknown to it.
// expected-error@unknown {{needs a non-empty string 'name'}}
"sparse_gemm.weight"() : () -> !torch.vtensor<[8],f32> loc("model.py":3:1)

// -----

// Notes may be expected, too.
// expected-error@+3 {{redefinition of symbol named 'f'}}
// expected-note@+1 {{see existing symbol definition here}}
func.func @f() { return }
func.func @f() { return }

// -----

// expected-error@+1 {{expected operation name in quotes}}
1 + 1

// -----

module {}
