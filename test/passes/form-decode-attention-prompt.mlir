// RUN: sparseflow-opt %s --split-input-file --form-decode-attention="queries=any" | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file --form-decode-attention | FileCheck %s --check-prefix=FEW

// A chunk of a prompt over a static cache: as many queries as it has.
// CHECK-LABEL: func.func @chunk
// CHECK: "sparse_gemm.decode_attention"(%arg0, %arg1, %arg1, %arg2) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 0>, scale = 0.35355339059327379 : f64, window = 0 : i64}
// CHECK-NOT: scaled_dot_product_attention
// FEW-LABEL: func.func @chunk
// FEW: torch.aten.scaled_dot_product_attention
// FEW-NOT: sparse_gemm.reason
func.func @chunk(%q: !torch.vtensor<[?,4,?,8],bf16>, %k: !torch.vtensor<[?,2,64,8],bf16>, %position: !torch.vtensor<[],si64>, %padding: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,?,8],bf16> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %2 = torch.constant.int 2
  %3 = torch.constant.int 3
  %64 = torch.constant.int 64
  %n = torch.aten.size.int %q, %2 : !torch.vtensor<[?,4,?,8],bf16>, !torch.int -> !torch.int
  %steps = torch.aten.arange %n, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %at = torch.aten.add.Tensor %steps, %position, %1 : !torch.vtensor<[?],si64>, !torch.vtensor<[],si64>, !torch.int -> !torch.vtensor<[?],si64>
  %at0 = torch.aten.unsqueeze %at, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %at1 = torch.aten.unsqueeze %at0, %0 : !torch.vtensor<[1,?],si64>, !torch.int -> !torch.vtensor<[1,1,?],si64>
  %queries = torch.aten.unsqueeze %at1, %3 : !torch.vtensor<[1,1,?],si64>, !torch.int -> !torch.vtensor<[1,1,?,1],si64>
  %places = torch.aten.arange %64, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[64],si64>
  %k0 = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[64],si64>, !torch.int -> !torch.vtensor<[1,64],si64>
  %k1 = torch.aten.unsqueeze %k0, %0 : !torch.vtensor<[1,64],si64>, !torch.int -> !torch.vtensor<[1,1,64],si64>
  %keys = torch.aten.unsqueeze %k1, %0 : !torch.vtensor<[1,1,64],si64>, !torch.int -> !torch.vtensor<[1,1,1,64],si64>
  %le = torch.aten.le.Tensor %keys, %queries : !torch.vtensor<[1,1,1,64],si64>, !torch.vtensor<[1,1,?,1],si64> -> !torch.vtensor<[1,1,?,64],i1>
  %y = torch.aten.scaled_dot_product_attention %q, %k, %k, %le, %p, %false, %none, %true : !torch.vtensor<[?,4,?,8],bf16>, !torch.vtensor<[?,2,64,8],bf16>, !torch.vtensor<[?,2,64,8],bf16>, !torch.vtensor<[1,1,?,64],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,8],bf16>
  return %y : !torch.vtensor<[?,4,?,8],bf16>
}

// -----

// In a window, in float16.
// CHECK-LABEL: func.func @window
// CHECK: "sparse_gemm.decode_attention"(%arg0, %arg1, %arg1, %arg2) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 0>, scale = 0.35355339059327379 : f64, window = 8 : i64}
func.func @window(%q: !torch.vtensor<[?,4,?,8],f16>, %k: !torch.vtensor<[?,2,64,8],f16>, %position: !torch.vtensor<[],si64>, %padding: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,?,8],f16> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %2 = torch.constant.int 2
  %3 = torch.constant.int 3
  %8 = torch.constant.int 8
  %64 = torch.constant.int 64
  %n = torch.aten.size.int %q, %2 : !torch.vtensor<[?,4,?,8],f16>, !torch.int -> !torch.int
  %steps = torch.aten.arange %n, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %at = torch.aten.add.Tensor %steps, %position, %1 : !torch.vtensor<[?],si64>, !torch.vtensor<[],si64>, !torch.int -> !torch.vtensor<[?],si64>
  %at0 = torch.aten.unsqueeze %at, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %at1 = torch.aten.unsqueeze %at0, %0 : !torch.vtensor<[1,?],si64>, !torch.int -> !torch.vtensor<[1,1,?],si64>
  %queries = torch.aten.unsqueeze %at1, %3 : !torch.vtensor<[1,1,?],si64>, !torch.int -> !torch.vtensor<[1,1,?,1],si64>
  %places = torch.aten.arange %64, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[64],si64>
  %k0 = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[64],si64>, !torch.int -> !torch.vtensor<[1,64],si64>
  %k1 = torch.aten.unsqueeze %k0, %0 : !torch.vtensor<[1,64],si64>, !torch.int -> !torch.vtensor<[1,1,64],si64>
  %keys = torch.aten.unsqueeze %k1, %0 : !torch.vtensor<[1,1,64],si64>, !torch.int -> !torch.vtensor<[1,1,1,64],si64>
  %le = torch.aten.le.Tensor %keys, %queries : !torch.vtensor<[1,1,1,64],si64>, !torch.vtensor<[1,1,?,1],si64> -> !torch.vtensor<[1,1,?,64],i1>
  %before = torch.aten.sub.Scalar %queries, %8, %1 : !torch.vtensor<[1,1,?,1],si64>, !torch.int, !torch.int -> !torch.vtensor<[1,1,?,1],si64>
  %near = torch.aten.gt.Tensor %keys, %before : !torch.vtensor<[1,1,1,64],si64>, !torch.vtensor<[1,1,?,1],si64> -> !torch.vtensor<[1,1,?,64],i1>
  %both = torch.aten.__and__.Tensor %near, %le : !torch.vtensor<[1,1,?,64],i1>, !torch.vtensor<[1,1,?,64],i1> -> !torch.vtensor<[1,1,?,64],i1>
  %y = torch.aten.scaled_dot_product_attention %q, %k, %k, %both, %p, %false, %none, %true : !torch.vtensor<[?,4,?,8],f16>, !torch.vtensor<[?,2,64,8],f16>, !torch.vtensor<[?,2,64,8],f16>, !torch.vtensor<[1,1,?,64],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,8],f16>
  return %y : !torch.vtensor<[?,4,?,8],f16>
}
