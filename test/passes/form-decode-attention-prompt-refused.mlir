// RUN: sparseflow-opt %s --split-input-file --form-decode-attention="queries=any" | FileCheck %s

// Many queries that stay, and why.

// FlashAttention has no float32.
// CHECK-LABEL: func.func @singles
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "attends with many queries in f32"}
func.func @singles(%q: !torch.vtensor<[?,4,?,8],f32>, %k: !torch.vtensor<[?,2,64,8],f32>, %position: !torch.vtensor<[],si64>, %padding: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,?,8],f32> {
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
  %n = torch.aten.size.int %q, %2 : !torch.vtensor<[?,4,?,8],f32>, !torch.int -> !torch.int
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
  %y = torch.aten.scaled_dot_product_attention %q, %k, %k, %le, %p, %false, %none, %true : !torch.vtensor<[?,4,?,8],f32>, !torch.vtensor<[?,2,64,8],f32>, !torch.vtensor<[?,2,64,8],f32>, !torch.vtensor<[1,1,?,64],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,8],f32>
  return %y : !torch.vtensor<[?,4,?,8],f32>
}

// -----

// Nor heads of any width.
// CHECK-LABEL: func.func @odd_heads
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "attends with many queries in heads 20 wide"}
func.func @odd_heads(%q: !torch.vtensor<[?,4,?,20],bf16>, %k: !torch.vtensor<[?,2,64,20],bf16>, %position: !torch.vtensor<[],si64>, %padding: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,?,20],bf16> {
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
  %n = torch.aten.size.int %q, %2 : !torch.vtensor<[?,4,?,20],bf16>, !torch.int -> !torch.int
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
  %y = torch.aten.scaled_dot_product_attention %q, %k, %k, %le, %p, %false, %none, %true : !torch.vtensor<[?,4,?,20],bf16>, !torch.vtensor<[?,2,64,20],bf16>, !torch.vtensor<[?,2,64,20],bf16>, !torch.vtensor<[1,1,?,64],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,20],bf16>
  return %y : !torch.vtensor<[?,4,?,20],bf16>
}

// -----

// CHECK-LABEL: func.func @wide_heads
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "attends with many queries in heads 264 wide"}
func.func @wide_heads(%q: !torch.vtensor<[?,4,?,264],bf16>, %k: !torch.vtensor<[?,2,64,264],bf16>, %position: !torch.vtensor<[],si64>, %padding: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,?,264],bf16> {
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
  %n = torch.aten.size.int %q, %2 : !torch.vtensor<[?,4,?,264],bf16>, !torch.int -> !torch.int
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
  %y = torch.aten.scaled_dot_product_attention %q, %k, %k, %le, %p, %false, %none, %true : !torch.vtensor<[?,4,?,264],bf16>, !torch.vtensor<[?,2,64,264],bf16>, !torch.vtensor<[?,2,64,264],bf16>, !torch.vtensor<[1,1,?,64],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,264],bf16>
  return %y : !torch.vtensor<[?,4,?,264],bf16>
}

// -----

// Padding.
// CHECK-LABEL: func.func @padded
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "attends with many queries, and its mask hides padding"}
func.func @padded(%q: !torch.vtensor<[?,4,?,8],bf16>, %k: !torch.vtensor<[?,2,64,8],bf16>, %position: !torch.vtensor<[],si64>, %padding: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,?,8],bf16> {
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
  %b = torch.aten.size.int %q, %0 : !torch.vtensor<[?,4,?,8],bf16>, !torch.int -> !torch.int
  %batch = torch.aten.arange %b, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %b0 = torch.aten.unsqueeze %batch, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %b1 = torch.aten.unsqueeze %b0, %1 : !torch.vtensor<[?,1],si64>, !torch.int -> !torch.vtensor<[?,1,1],si64>
  %sequences = torch.aten.unsqueeze %b1, %1 : !torch.vtensor<[?,1,1],si64>, !torch.int -> !torch.vtensor<[?,1,1,1],si64>
  %which = torch.prim.ListConstruct %sequences, %keys : (!torch.vtensor<[?,1,1,1],si64>, !torch.vtensor<[1,1,1,64],si64>) -> !torch.list<optional<vtensor>>
  %kept = torch.aten.index.Tensor %padding, %which : !torch.vtensor<[?,?],i1>, !torch.list<optional<vtensor>> -> !torch.vtensor<[?,1,1,64],i1>
  %all = torch.aten.__and__.Tensor %le, %kept : !torch.vtensor<[1,1,?,64],i1>, !torch.vtensor<[?,1,1,64],i1> -> !torch.vtensor<[?,1,?,64],i1>
  %y = torch.aten.scaled_dot_product_attention %q, %k, %k, %all, %p, %false, %none, %true : !torch.vtensor<[?,4,?,8],bf16>, !torch.vtensor<[?,2,64,8],bf16>, !torch.vtensor<[?,2,64,8],bf16>, !torch.vtensor<[?,1,?,64],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,8],bf16>
  return %y : !torch.vtensor<[?,4,?,8],bf16>
}

// -----

// A mask that may have another number of queries, of which one serves all.
// CHECK-LABEL: func.func @other_mask
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "its mask isn't one of its queries"}
func.func @other_mask(%q: !torch.vtensor<[?,4,?,8],bf16>, %k: !torch.vtensor<[?,2,64,8],bf16>, %position: !torch.vtensor<[],si64>, %padding: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,?,8],bf16> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %3 = torch.constant.int 3
  %64 = torch.constant.int 64
  %n = torch.aten.size.int %padding, %1 : !torch.vtensor<[?,?],i1>, !torch.int -> !torch.int
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

// An encoder's.
// CHECK-LABEL: func.func @encoder
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "all of its queries see all keys"}
func.func @encoder(%q: !torch.vtensor<[?,4,?,8],bf16>, %k: !torch.vtensor<[?,2,64,8],bf16>, %position: !torch.vtensor<[],si64>, %padding: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,?,8],bf16> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %k, %none, %p, %false, %none, %true : !torch.vtensor<[?,4,?,8],bf16>, !torch.vtensor<[?,2,64,8],bf16>, !torch.vtensor<[?,2,64,8],bf16>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,8],bf16>
  return %y : !torch.vtensor<[?,4,?,8],bf16>
}

// -----

// A prompt without a cache.
// CHECK-LABEL: func.func @first
// CHECK: torch.aten.scaled_dot_product_attention {{.*}}{sparse_gemm.reason = "its queries are the first ones: it has no cache"}
func.func @first(%q: !torch.vtensor<[?,4,?,8],bf16>, %k: !torch.vtensor<[?,2,64,8],bf16>, %position: !torch.vtensor<[],si64>, %padding: !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,?,8],bf16> {
  %none = torch.constant.none
  %true = torch.constant.bool true
  %p = torch.constant.float 0.0
  %y = torch.aten.scaled_dot_product_attention %q, %k, %k, %none, %p, %true, %none, %true : !torch.vtensor<[?,4,?,8],bf16>, !torch.vtensor<[?,2,64,8],bf16>, !torch.vtensor<[?,2,64,8],bf16>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,8],bf16>
  return %y : !torch.vtensor<[?,4,?,8],bf16>
}
