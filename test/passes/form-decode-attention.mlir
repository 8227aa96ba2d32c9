// RUN: sparseflow-opt %s --split-input-file --form-decode-attention | FileCheck %s

// A step of a static cache, as transformers makes its mask: places in the cache compared with the position.
// CHECK-LABEL: func.func @static
// CHECK: %[[POSITION:.*]]: !torch.vtensor<[],si64>
// CHECK-NOT: torch.aten.reshape
// CHECK: %[[K:.*]] = torch.aten.select.int %{{.*}}, %int2{{.*}}, %int0{{.*}} : !torch.vtensor<[?,2,2,?,8],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,2,?,8],f32>
// CHECK: "sparse_gemm.decode_attention"(%{{.*}}, %[[K]], %{{.*}}, %{{.*}}) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 0>, scale = 2.500000e-01 : f64, window = 0 : i64}
// CHECK-NOT: scaled_dot_product_attention
func.func @static(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %position: !torch.vtensor<[],si64>) -> !torch.vtensor<[?,4,1,8],f32> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %scale = torch.constant.float 0.25
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %2 = torch.constant.int 2
  %4 = torch.constant.int 4
  %8 = torch.constant.int 8
  %32 = torch.constant.int 32
  %b = torch.aten.size.int %q, %0 : !torch.vtensor<[?,4,1,8],f32>, !torch.int -> !torch.int
  %one = torch.aten.arange %1, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[1],si64>
  %at = torch.aten.add.Tensor %one, %position, %1 : !torch.vtensor<[1],si64>, !torch.vtensor<[],si64>, !torch.int -> !torch.vtensor<[1],si64>
  %at0 = torch.aten.unsqueeze %at, %0 : !torch.vtensor<[1],si64>, !torch.int -> !torch.vtensor<[1,1],si64>
  %at1 = torch.aten.unsqueeze %at0, %0 : !torch.vtensor<[1,1],si64>, !torch.int -> !torch.vtensor<[1,1,1],si64>
  %queries = torch.aten.unsqueeze %at1, %0 : !torch.vtensor<[1,1,1],si64>, !torch.int -> !torch.vtensor<[1,1,1,1],si64>
  %places = torch.aten.arange %32, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[32],si64>
  %k0 = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[32],si64>, !torch.int -> !torch.vtensor<[1,32],si64>
  %k1 = torch.aten.unsqueeze %k0, %0 : !torch.vtensor<[1,32],si64>, !torch.int -> !torch.vtensor<[1,1,32],si64>
  %keys = torch.aten.unsqueeze %k1, %0 : !torch.vtensor<[1,1,32],si64>, !torch.int -> !torch.vtensor<[1,1,1,32],si64>
  %le = torch.aten.le.Tensor %keys, %queries : !torch.vtensor<[1,1,1,32],si64>, !torch.vtensor<[1,1,1,1],si64> -> !torch.vtensor<[1,1,1,32],i1>
  %sizes = torch.prim.ListConstruct %b, %m1, %1, %32 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %mask = torch.aten.expand %le, %sizes, %false : !torch.vtensor<[1,1,1,32],i1>, !torch.list<int>, !torch.bool -> !torch.vtensor<[?,1,1,32],i1>
  %inner = torch.aten.unsqueeze %k, %2 : !torch.vtensor<[?,2,?,8],f32>, !torch.int -> !torch.vtensor<[?,2,1,?,8],f32>
  %copies = torch.prim.ListConstruct %b, %2, %2, %32, %8 : (!torch.int, !torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %grouped = torch.aten.expand %inner, %copies, %false : !torch.vtensor<[?,2,1,?,8],f32>, !torch.list<int>, !torch.bool -> !torch.vtensor<[?,2,2,?,8],f32>
  %shape = torch.prim.ListConstruct %b, %4, %32, %8 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %repeated = torch.aten.reshape %grouped, %shape : !torch.vtensor<[?,2,2,?,8],f32>, !torch.list<int> -> !torch.vtensor<[?,4,?,8],f32>
  %y = torch.aten.scaled_dot_product_attention %q, %repeated, %repeated, %mask, %p, %false, %scale, %false : !torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,1,1,32],i1>, !torch.float, !torch.bool, !torch.float, !torch.bool -> !torch.vtensor<[?,4,1,8],f32>
  return %y : !torch.vtensor<[?,4,1,8],f32>
}

// -----

// Three queries, a window of 8, and padding: a matrix of sequences and keys.
// CHECK-LABEL: func.func @padded
// CHECK: "sparse_gemm.decode_attention"(%arg0, %arg1, %arg1, %arg2, %arg3) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.35355339059327379 : f64, window = 8 : i64}
func.func @padded(%q: !torch.vtensor<[?,4,3,8],bf16>, %k: !torch.vtensor<[?,2,32,8],bf16>, %position: !torch.vtensor<[],si64>, %padding: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,3,8],bf16> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %3 = torch.constant.int 3
  %8 = torch.constant.int 8
  %32 = torch.constant.int 32
  %b = torch.aten.size.int %q, %0 : !torch.vtensor<[?,4,3,8],bf16>, !torch.int -> !torch.int
  %batch = torch.aten.arange %b, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %b0 = torch.aten.unsqueeze %batch, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %b1 = torch.aten.unsqueeze %b0, %1 : !torch.vtensor<[?,1],si64>, !torch.int -> !torch.vtensor<[?,1,1],si64>
  %sequences = torch.aten.unsqueeze %b1, %1 : !torch.vtensor<[?,1,1],si64>, !torch.int -> !torch.vtensor<[?,1,1,1],si64>
  %steps = torch.aten.arange %3, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[3],si64>
  %at = torch.aten.add.Tensor %steps, %position, %1 : !torch.vtensor<[3],si64>, !torch.vtensor<[],si64>, !torch.int -> !torch.vtensor<[3],si64>
  %at0 = torch.aten.unsqueeze %at, %0 : !torch.vtensor<[3],si64>, !torch.int -> !torch.vtensor<[1,3],si64>
  %at1 = torch.aten.unsqueeze %at0, %0 : !torch.vtensor<[1,3],si64>, !torch.int -> !torch.vtensor<[1,1,3],si64>
  %queries = torch.aten.unsqueeze %at1, %3 : !torch.vtensor<[1,1,3],si64>, !torch.int -> !torch.vtensor<[1,1,3,1],si64>
  %places = torch.aten.arange %32, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[32],si64>
  %k0 = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[32],si64>, !torch.int -> !torch.vtensor<[1,32],si64>
  %k1 = torch.aten.unsqueeze %k0, %0 : !torch.vtensor<[1,32],si64>, !torch.int -> !torch.vtensor<[1,1,32],si64>
  %keys = torch.aten.unsqueeze %k1, %0 : !torch.vtensor<[1,1,32],si64>, !torch.int -> !torch.vtensor<[1,1,1,32],si64>
  %before = torch.aten.sub.Scalar %queries, %8, %1 : !torch.vtensor<[1,1,3,1],si64>, !torch.int, !torch.int -> !torch.vtensor<[1,1,3,1],si64>
  %near = torch.aten.gt.Tensor %keys, %before : !torch.vtensor<[1,1,1,32],si64>, !torch.vtensor<[1,1,3,1],si64> -> !torch.vtensor<[1,1,3,32],i1>
  %le = torch.aten.le.Tensor %keys, %queries : !torch.vtensor<[1,1,1,32],si64>, !torch.vtensor<[1,1,3,1],si64> -> !torch.vtensor<[1,1,3,32],i1>
  %both = torch.aten.__and__.Tensor %near, %le : !torch.vtensor<[1,1,3,32],i1>, !torch.vtensor<[1,1,3,32],i1> -> !torch.vtensor<[1,1,3,32],i1>
  %which = torch.prim.ListConstruct %sequences, %keys : (!torch.vtensor<[?,1,1,1],si64>, !torch.vtensor<[1,1,1,32],si64>) -> !torch.list<optional<vtensor>>
  %kept = torch.aten.index.Tensor %padding, %which : !torch.vtensor<[?,?],i1>, !torch.list<optional<vtensor>> -> !torch.vtensor<[?,1,1,32],i1>
  %mask = torch.aten.__and__.Tensor %both, %kept : !torch.vtensor<[1,1,3,32],i1>, !torch.vtensor<[?,1,1,32],i1> -> !torch.vtensor<[?,1,3,32],i1>
  %y = torch.aten.scaled_dot_product_attention %q, %k, %k, %mask, %p, %false, %none, %true : !torch.vtensor<[?,4,3,8],bf16>, !torch.vtensor<[?,2,32,8],bf16>, !torch.vtensor<[?,2,32,8],bf16>, !torch.vtensor<[?,1,3,32],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,3,8],bf16>
  return %y : !torch.vtensor<[?,4,3,8],bf16>
}

// -----

// A cache that grows: its only query sees all keys.
// CHECK-LABEL: func.func @dynamic
// CHECK: "sparse_gemm.decode_attention"(%arg0, %arg1, %arg1) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>
func.func @dynamic(%q: !torch.vtensor<[?,4,1,8],f16>, %k: !torch.vtensor<[?,4,?,8],f16>) -> !torch.vtensor<[?,4,1,8],f16> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %k, %none, %p, %false, %none, %false : !torch.vtensor<[?,4,1,8],f16>, !torch.vtensor<[?,4,?,8],f16>, !torch.vtensor<[?,4,?,8],f16>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,1,8],f16>
  return %y : !torch.vtensor<[?,4,1,8],f16>
}
