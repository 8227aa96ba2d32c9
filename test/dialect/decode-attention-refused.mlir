// RUN: sparseflow-opt %s --split-input-file --verify-diagnostics

func.func @scale(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %v: !torch.vtensor<[?,2,?,8],f32>, %p: !torch.vtensor<[],si64>, %keep: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs a float 'scale'}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v, %p, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, window = 8 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32>
  return %0 : !torch.vtensor<[?,4,1,8],f32>
}

// -----

func.func @window(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %v: !torch.vtensor<[?,2,?,8],f32>, %p: !torch.vtensor<[],si64>, %keep: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs an integer 'window' of at least 0}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v, %p, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.25 : f64, window = -1 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32>
  return %0 : !torch.vtensor<[?,4,1,8],f32>
}

// -----

func.func @rank(%q: !torch.vtensor<[4,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %v: !torch.vtensor<[?,2,?,8],f32>, %p: !torch.vtensor<[],si64>, %keep: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[4,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs q to have four dimensions}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v, %p, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[4,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[4,8],f32>
  return %0 : !torch.vtensor<[4,8],f32>
}

// -----

func.func @queries(%q: !torch.vtensor<[?,4,99,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %v: !torch.vtensor<[?,2,?,8],f32>, %p: !torch.vtensor<[],si64>, %keep: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,99,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs a position and no keep, or 1 to}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v, %p, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[?,4,99,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,99,8],f32>
  return %0 : !torch.vtensor<[?,4,99,8],f32>
}

// -----

func.func @unknown_queries(%q: !torch.vtensor<[?,4,?,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %v: !torch.vtensor<[?,2,?,8],f32>, %p: !torch.vtensor<[],si64>) -> !torch.vtensor<[?,4,?,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs a position and no keep, or 1 to}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, scale = 0.25 : f64, window = 0 : i64} : (!torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>) -> !torch.vtensor<[?,4,?,8],f32>
  return %0 : !torch.vtensor<[?,4,?,8],f32>
}

// -----

func.func @width(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,2,?,16],f32>, %v: !torch.vtensor<[?,2,?,16],f32>, %p: !torch.vtensor<[],si64>, %keep: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs k to be as wide as q and of its dtype}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v, %p, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,2,?,16],f32>, !torch.vtensor<[?,2,?,16],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32>
  return %0 : !torch.vtensor<[?,4,1,8],f32>
}

// -----

func.func @alike(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %v: !torch.vtensor<[?,4,?,8],f32>, %p: !torch.vtensor<[],si64>, %keep: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs k and v to be alike}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v, %p, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32>
  return %0 : !torch.vtensor<[?,4,1,8],f32>
}

// -----

func.func @heads(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,3,?,8],f32>, %v: !torch.vtensor<[?,3,?,8],f32>, %p: !torch.vtensor<[],si64>, %keep: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs the heads of q to be a multiple of those of k}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v, %p, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,3,?,8],f32>, !torch.vtensor<[?,3,?,8],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32>
  return %0 : !torch.vtensor<[?,4,1,8],f32>
}

// -----

func.func @result(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %v: !torch.vtensor<[?,2,?,8],f32>, %p: !torch.vtensor<[],si64>, %keep: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,2,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs its result to be like q}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v, %p, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,2,8],f32>
  return %0 : !torch.vtensor<[?,4,2,8],f32>
}

// -----

func.func @position(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %v: !torch.vtensor<[?,2,?,8],f32>, %p: !torch.vtensor<[2],si64>, %keep: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs position to be one si64}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v, %p, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[2],si64>, !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32>
  return %0 : !torch.vtensor<[?,4,1,8],f32>
}

// -----

func.func @keep(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %v: !torch.vtensor<[?,2,?,8],f32>, %p: !torch.vtensor<[],si64>, %keep: !torch.vtensor<[?,?],si64>) -> !torch.vtensor<[?,4,1,8],f32> {
  // expected-error@+1 {{'sparse_gemm.decode_attention' op needs keep to be a matrix of i1}}
  %0 = "sparse_gemm.decode_attention"(%q, %k, %v, %p, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[?,?],si64>) -> !torch.vtensor<[?,4,1,8],f32>
  return %0 : !torch.vtensor<[?,4,1,8],f32>
}
