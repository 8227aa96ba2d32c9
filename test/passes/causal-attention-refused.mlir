// RUN: sparseflow-opt %s --split-input-file --causal-attention | FileCheck %s

// Which keys count is said by the call.
// CHECK-LABEL: func.func @padding
// CHECK: torch.aten.scaled_dot_product_attention %arg0, %arg0, %arg0, %{{[0-9]+}}, %{{.*}}, %false,
func.func @padding(%x: !torch.vtensor<[?,?,32],bf16>, %more: !torch.vtensor<[?,?],i1>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %3 = torch.constant.int 3
  %s = torch.aten.size.int %x, %1 : !torch.vtensor<[?,?,32],bf16>, !torch.int -> !torch.int
  %places = torch.aten.arange %s, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %queries = torch.aten.unsqueeze %places, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %keys = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %le = torch.aten.le.Tensor %keys, %queries : !torch.vtensor<[1,?],si64>, !torch.vtensor<[?,1],si64> -> !torch.vtensor<[?,?],i1>
  %mask = torch.aten.__and__.Tensor %le, %more : !torch.vtensor<[?,?],i1>, !torch.vtensor<[?,?],i1> -> !torch.vtensor<[?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %x, %x, %x, %mask, %p, %false, %none, %false : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,?,32],bf16>
  return %y : !torch.vtensor<[?,?,32],bf16>
}

// -----

// A key may not be too far back either.
// CHECK-LABEL: func.func @window
// CHECK: torch.aten.scaled_dot_product_attention %arg0, %arg0, %arg0, %{{[0-9]+}}, %{{.*}}, %false,
func.func @window(%x: !torch.vtensor<[?,?,32],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %3 = torch.constant.int 3
  %s = torch.aten.size.int %x, %1 : !torch.vtensor<[?,?,32],bf16>, !torch.int -> !torch.int
  %places = torch.aten.arange %s, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %queries = torch.aten.unsqueeze %places, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %keys = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %le = torch.aten.le.Tensor %keys, %queries : !torch.vtensor<[1,?],si64>, !torch.vtensor<[?,1],si64> -> !torch.vtensor<[?,?],i1>
  %back = torch.aten.sub.Scalar %queries, %3, %1 : !torch.vtensor<[?,1],si64>, !torch.int, !torch.int -> !torch.vtensor<[?,1],si64>
  %more = torch.aten.gt.Tensor %keys, %back : !torch.vtensor<[1,?],si64>, !torch.vtensor<[?,1],si64> -> !torch.vtensor<[?,?],i1>
  %mask = torch.aten.__and__.Tensor %le, %more : !torch.vtensor<[?,?],i1>, !torch.vtensor<[?,?],i1> -> !torch.vtensor<[?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %x, %x, %x, %mask, %p, %false, %none, %false : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,?,32],bf16>
  return %y : !torch.vtensor<[?,?,32],bf16>
}

// -----

// The queries come after what a cache holds.
// CHECK-LABEL: func.func @cached
// CHECK: torch.aten.scaled_dot_product_attention %arg0, %arg0, %arg0, %{{[0-9]+}}, %{{.*}}, %false,
func.func @cached(%x: !torch.vtensor<[?,?,32],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %3 = torch.constant.int 3
  %s = torch.aten.size.int %x, %1 : !torch.vtensor<[?,?,32],bf16>, !torch.int -> !torch.int
  %places = torch.aten.arange %s, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %queries = torch.aten.unsqueeze %places, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %keys = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %later = torch.aten.add.Scalar %queries, %3, %1 : !torch.vtensor<[?,1],si64>, !torch.int, !torch.int -> !torch.vtensor<[?,1],si64>
  %mask = torch.aten.le.Tensor %keys, %later : !torch.vtensor<[1,?],si64>, !torch.vtensor<[?,1],si64> -> !torch.vtensor<[?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %x, %x, %x, %mask, %p, %false, %none, %false : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,?,32],bf16>
  return %y : !torch.vtensor<[?,?,32],bf16>
}

// -----

// A query does not see itself.
// CHECK-LABEL: func.func @before
// CHECK: torch.aten.scaled_dot_product_attention %arg0, %arg0, %arg0, %{{[0-9]+}}, %{{.*}}, %false,
func.func @before(%x: !torch.vtensor<[?,?,32],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %3 = torch.constant.int 3
  %s = torch.aten.size.int %x, %1 : !torch.vtensor<[?,?,32],bf16>, !torch.int -> !torch.int
  %places = torch.aten.arange %s, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %queries = torch.aten.unsqueeze %places, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %keys = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %mask = torch.aten.lt.Tensor %keys, %queries : !torch.vtensor<[1,?],si64>, !torch.vtensor<[?,1],si64> -> !torch.vtensor<[?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %x, %x, %x, %mask, %p, %false, %none, %false : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,?,32],bf16>
  return %y : !torch.vtensor<[?,?,32],bf16>
}

// -----

// The mask is that of the keys.
// CHECK-LABEL: func.func @turned
// CHECK: torch.aten.scaled_dot_product_attention %arg0, %arg0, %arg0, %{{[0-9]+}}, %{{.*}}, %false,
func.func @turned(%x: !torch.vtensor<[?,?,32],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %3 = torch.constant.int 3
  %s = torch.aten.size.int %x, %1 : !torch.vtensor<[?,?,32],bf16>, !torch.int -> !torch.int
  %places = torch.aten.arange %s, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %queries = torch.aten.unsqueeze %places, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %keys = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %mask = torch.aten.le.Tensor %queries, %keys : !torch.vtensor<[?,1],si64>, !torch.vtensor<[1,?],si64> -> !torch.vtensor<[?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %x, %x, %x, %mask, %p, %false, %none, %false : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,?,32],bf16>
  return %y : !torch.vtensor<[?,?,32],bf16>
}

// -----

// The places are said by the call.
// CHECK-LABEL: func.func @positions
// CHECK: torch.aten.scaled_dot_product_attention %arg0, %arg0, %arg0, %{{[0-9]+}}, %{{.*}}, %false,
func.func @positions(%x: !torch.vtensor<[?,?,32],bf16>, %at: !torch.vtensor<[1,?],si64>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %3 = torch.constant.int 3
  %s = torch.aten.size.int %x, %1 : !torch.vtensor<[?,?,32],bf16>, !torch.int -> !torch.int
  %places = torch.aten.arange %s, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %queries = torch.aten.unsqueeze %places, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %keys = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %mask = torch.aten.le.Tensor %at, %queries : !torch.vtensor<[1,?],si64>, !torch.vtensor<[?,1],si64> -> !torch.vtensor<[?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %x, %x, %x, %mask, %p, %false, %none, %false : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,?,32],bf16>
  return %y : !torch.vtensor<[?,?,32],bf16>
}

// -----

// A mask of one place would be stretched over all.
// CHECK-LABEL: func.func @other_sizes
// CHECK: torch.aten.scaled_dot_product_attention %arg0, %arg0, %arg0, %{{[0-9]+}}, %{{.*}}, %false,
func.func @other_sizes(%x: !torch.vtensor<[?,?,32],bf16>, %other: !torch.vtensor<[?,?,32],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %3 = torch.constant.int 3
  %s = torch.aten.size.int %other, %1 : !torch.vtensor<[?,?,32],bf16>, !torch.int -> !torch.int
  %places = torch.aten.arange %s, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %queries = torch.aten.unsqueeze %places, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %keys = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %mask = torch.aten.le.Tensor %keys, %queries : !torch.vtensor<[1,?],si64>, !torch.vtensor<[?,1],si64> -> !torch.vtensor<[?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %x, %x, %x, %mask, %p, %false, %none, %false : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,?,32],bf16>
  return %y : !torch.vtensor<[?,?,32],bf16>
}
