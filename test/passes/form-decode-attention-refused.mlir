// RUN: sparseflow-opt %s --split-input-file --form-decode-attention | FileCheck %s

// Attention that stays, and why.

// A mask of the caller's: its elements aren't known.
// CHECK-LABEL: func.func @given
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "nothing is known of its mask"}
func.func @given(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,4,?,8],f32>, %v: !torch.vtensor<[?,4,?,8],f32>, %mask: !torch.vtensor<[?,1,1,32],i1>) -> !torch.vtensor<[?,4,1,8],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %mask, %p, %false, %none, %false : !torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,1,1,32],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,1,8],f32>
  return %y : !torch.vtensor<[?,4,1,8],f32>
}

// -----

// A mask that is added, such as a bias of distances.
// CHECK-LABEL: func.func @added
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "its mask is added to the scores"}
func.func @added(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,4,?,8],f32>, %v: !torch.vtensor<[?,4,?,8],f32>, %mask: !torch.vtensor<[?,1,1,32],f32>) -> !torch.vtensor<[?,4,1,8],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %mask, %p, %false, %none, %false : !torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,1,1,32],f32>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,1,8],f32>
  return %y : !torch.vtensor<[?,4,1,8],f32>
}

// -----

// Dropout.
// CHECK-LABEL: func.func @dropout
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "it drops weights out"}
func.func @dropout(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,4,?,8],f32>, %v: !torch.vtensor<[?,4,?,8],f32>) -> !torch.vtensor<[?,4,1,8],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.1
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %none, %p, %false, %none, %false : !torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,1,8],f32>
  return %y : !torch.vtensor<[?,4,1,8],f32>
}

// -----

// A dtype without a kernel.
// CHECK-LABEL: func.func @doubles
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "attends in f64"}
func.func @doubles(%q: !torch.vtensor<[?,4,1,8],f64>, %k: !torch.vtensor<[?,4,?,8],f64>, %v: !torch.vtensor<[?,4,?,8],f64>) -> !torch.vtensor<[?,4,1,8],f64> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %none, %p, %false, %none, %false : !torch.vtensor<[?,4,1,8],f64>, !torch.vtensor<[?,4,?,8],f64>, !torch.vtensor<[?,4,?,8],f64>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,1,8],f64>
  return %y : !torch.vtensor<[?,4,1,8],f64>
}

// -----

// Values wider than keys.
// CHECK-LABEL: func.func @wide_values
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "its values have another width than its keys"}
func.func @wide_values(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,4,?,8],f32>, %v: !torch.vtensor<[?,4,?,16],f32>) -> !torch.vtensor<[?,4,1,16],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %none, %p, %false, %none, %false : !torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,16],f32>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,1,16],f32>
  return %y : !torch.vtensor<[?,4,1,16],f32>
}

// -----

// Queries that begin a sequence.
// CHECK-LABEL: func.func @first
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "its queries are the first ones: it has no cache"}
func.func @first(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,4,?,8],f32>, %v: !torch.vtensor<[?,4,?,8],f32>) -> !torch.vtensor<[?,4,1,8],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %none, %p, %true, %none, %false : !torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,1,8],f32>
  return %y : !torch.vtensor<[?,4,1,8],f32>
}

// -----

// Several queries that see all keys, as of an encoder.
// CHECK-LABEL: func.func @all
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "all of its queries see all keys"}
func.func @all(%q: !torch.vtensor<[?,4,2,8],f32>, %k: !torch.vtensor<[?,4,?,8],f32>, %v: !torch.vtensor<[?,4,?,8],f32>) -> !torch.vtensor<[?,4,2,8],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %none, %p, %false, %none, %false : !torch.vtensor<[?,4,2,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,2,8],f32>
  return %y : !torch.vtensor<[?,4,2,8],f32>
}

// -----

// Keys after the position.
// CHECK-LABEL: func.func @after
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "its mask isn't that of a position in a cache"}
func.func @after(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,4,?,8],f32>, %v: !torch.vtensor<[?,4,?,8],f32>, %position: !torch.vtensor<[],si64>) -> !torch.vtensor<[?,4,1,8],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %cpu = torch.constant.device "cpu"
  %c0 = torch.constant.int 0
  %c1 = torch.constant.int 1
  %c32 = torch.constant.int 32
  %shift = torch.constant.int 0
  %places = torch.aten.arange %c32, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[32],si64>
  %moved = torch.aten.add.Scalar %places, %shift, %c1 : !torch.vtensor<[32],si64>, !torch.int, !torch.int -> !torch.vtensor<[32],si64>
  %k0 = torch.aten.unsqueeze %moved, %c0 : !torch.vtensor<[32],si64>, !torch.int -> !torch.vtensor<[1,32],si64>
  %k1 = torch.aten.unsqueeze %k0, %c0 : !torch.vtensor<[1,32],si64>, !torch.int -> !torch.vtensor<[1,1,32],si64>
  %keys = torch.aten.unsqueeze %k1, %c0 : !torch.vtensor<[1,1,32],si64>, !torch.int -> !torch.vtensor<[1,1,1,32],si64>
  %mask = torch.aten.ge.Tensor %keys, %position : !torch.vtensor<[1,1,1,32],si64>, !torch.vtensor<[],si64> -> !torch.vtensor<[1,1,1,32],i1>
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %mask, %p, %false, %none, %false : !torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[1,1,1,32],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,1,8],f32>
  return %y : !torch.vtensor<[?,4,1,8],f32>
}

// -----

// Keys up to one after the position.
// CHECK-LABEL: func.func @later
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "its mask isn't that of a position in a cache"}
func.func @later(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,4,?,8],f32>, %v: !torch.vtensor<[?,4,?,8],f32>, %position: !torch.vtensor<[],si64>) -> !torch.vtensor<[?,4,1,8],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %cpu = torch.constant.device "cpu"
  %c0 = torch.constant.int 0
  %c1 = torch.constant.int 1
  %c32 = torch.constant.int 32
  %shift = torch.constant.int -1
  %places = torch.aten.arange %c32, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[32],si64>
  %moved = torch.aten.add.Scalar %places, %shift, %c1 : !torch.vtensor<[32],si64>, !torch.int, !torch.int -> !torch.vtensor<[32],si64>
  %k0 = torch.aten.unsqueeze %moved, %c0 : !torch.vtensor<[32],si64>, !torch.int -> !torch.vtensor<[1,32],si64>
  %k1 = torch.aten.unsqueeze %k0, %c0 : !torch.vtensor<[1,32],si64>, !torch.int -> !torch.vtensor<[1,1,32],si64>
  %keys = torch.aten.unsqueeze %k1, %c0 : !torch.vtensor<[1,1,32],si64>, !torch.int -> !torch.vtensor<[1,1,1,32],si64>
  %mask = torch.aten.le.Tensor %keys, %position : !torch.vtensor<[1,1,1,32],si64>, !torch.vtensor<[],si64> -> !torch.vtensor<[1,1,1,32],i1>
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %mask, %p, %false, %none, %false : !torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[1,1,1,32],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,1,8],f32>
  return %y : !torch.vtensor<[?,4,1,8],f32>
}

// -----

// Too many queries; a prompt's attention is no subject of this pass.
// CHECK-LABEL: func.func @many
// CHECK-NOT: sparse_gemm
func.func @many(%q: !torch.vtensor<[?,4,17,8],f32>, %k: !torch.vtensor<[?,4,?,8],f32>, %v: !torch.vtensor<[?,4,?,8],f32>) -> !torch.vtensor<[?,4,17,8],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %none, %p, %false, %none, %false : !torch.vtensor<[?,4,17,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,17,8],f32>
  return %y : !torch.vtensor<[?,4,17,8],f32>
}

// -----

// As many queries as a call has.
// CHECK-LABEL: func.func @prompt
// CHECK-NOT: sparse_gemm
func.func @prompt(%q: !torch.vtensor<[?,4,?,8],f32>, %k: !torch.vtensor<[?,4,?,8],f32>, %v: !torch.vtensor<[?,4,?,8],f32>) -> !torch.vtensor<[?,4,?,8],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %v, %none, %p, %false, %none, %false : !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,8],f32>
  return %y : !torch.vtensor<[?,4,?,8],f32>
}
