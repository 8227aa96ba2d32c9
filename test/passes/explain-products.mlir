// RUN: sparseflow-opt %s --split-input-file --explain-products | FileCheck %s

// Products that canonicalize-linear left alone.
// CHECK-LABEL: func.func @products
func.func @products(%x: !torch.vtensor<[64,4],f32>, %b: !torch.vtensor<[2,4,64],f32>, %c: !torch.vtensor<[4,32],f32>, %s: !torch.int) {
  %int0 = torch.constant.int 0
  %int1 = torch.constant.int 1
  // CHECK: torch.aten.mm {{.*}} {sparse_gemm.reason = "this mm isn't of the form x W^T + bias"}
  %w0 = "sparse_gemm.weight"() {name = "w0"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.mm %w0, %x : !torch.vtensor<[32,64],f32>, !torch.vtensor<[64,4],f32> -> !torch.vtensor<[32,4],f32>
  // CHECK: torch.aten.bmm {{.*}} {sparse_gemm.reason = "its weight has rank 3; only matrices can be packed"}
  %w1 = "sparse_gemm.weight"() {name = "experts"} : () -> !torch.vtensor<[2,64,32],f32>
  %1 = torch.aten.bmm %b, %w1 : !torch.vtensor<[2,4,64],f32>, !torch.vtensor<[2,64,32],f32> -> !torch.vtensor<[2,4,32],f32>
  // CHECK: torch.aten.addmm {{.*}} {sparse_gemm.reason = "this addmm isn't of the form x W^T + bias"}
  %w2 = "sparse_gemm.weight"() {name = "w2"} : () -> !torch.vtensor<[64,32],f32>
  %x2 = torch.aten.t %x : !torch.vtensor<[64,4],f32> -> !torch.vtensor<[4,64],f32>
  %2 = torch.aten.addmm %c, %x2, %w2, %s, %s : !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32>, !torch.int, !torch.int -> !torch.vtensor<[4,32],f32>
  // CHECK: torch.aten.matmul {{.*}} {sparse_gemm.reason = "this matmul isn't of the form x W^T + bias"}
  %w3 = "sparse_gemm.weight"() {name = "w3"} : () -> !torch.vtensor<[64,32],f32>
  %u = torch.aten.unsqueeze %w3, %int0 : !torch.vtensor<[64,32],f32>, !torch.int -> !torch.vtensor<[1,64,32],f32>
  %3 = torch.aten.matmul %b, %u : !torch.vtensor<[2,4,64],f32>, !torch.vtensor<[1,64,32],f32> -> !torch.vtensor<[2,4,32],f32>
  // CHECK: torch.aten.mm {{.*}} {sparse_gemm.reason = "it multiplies by a part of the matrix 'w4'"}
  %w4 = "sparse_gemm.weight"() {name = "w4"} : () -> !torch.vtensor<[64,32],f32>
  %p = torch.aten.slice.Tensor %w4, %int1, %int0, %s, %int1 : !torch.vtensor<[64,32],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[64,?],f32>
  %4 = torch.aten.mm %x2, %p : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,?],f32> -> !torch.vtensor<[4,?],f32>
  // A product of two inputs, as in attention, is no layer; a linear layer is match-sparse-linear's.
  // CHECK: torch.aten.mm %{{[^{]*$}}
  // CHECK: torch.aten.linear %{{[^{]*$}}
  %5 = torch.aten.mm %x2, %x : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,4],f32> -> !torch.vtensor<[4,4],f32>
  %none = torch.constant.none
  %6 = torch.aten.linear %x2, %w0, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  return
}

// -----

// What is added, looked up, or no parameter is no weight.
// CHECK-LABEL: func.func @no_weights
func.func @no_weights(%x: !torch.vtensor<[2,4,64],f32>, %y: !torch.vtensor<[2,64,8],f32>, %ids: !torch.vtensor<[4],si64>) {
  // CHECK-NOT: sparse_gemm.reason
  // CHECK: return
  %int1 = torch.constant.int 1
  %int-1 = torch.constant.int -1
  %false = torch.constant.bool false
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[2,4,8],f32>
  %0 = torch.aten.baddbmm %b, %x, %y, %int1, %int1 : !torch.vtensor<[2,4,8],f32>, !torch.vtensor<[2,4,64],f32>, !torch.vtensor<[2,64,8],f32>, !torch.int, !torch.int -> !torch.vtensor<[2,4,8],f32>
  %t = "sparse_gemm.weight"() {name = "embed.weight"} : () -> !torch.vtensor<[32,64],f32>
  %e = torch.aten.embedding %t, %ids, %int-1, %false, %false : !torch.vtensor<[32,64],f32>, !torch.vtensor<[4],si64>, !torch.int, !torch.bool, !torch.bool -> !torch.vtensor<[4,64],f32>
  %m = "sparse_gemm.weight"() {name = "dct", sparse_gemm.kind = "buffer"} : () -> !torch.vtensor<[64,4],f32>
  %1 = torch.aten.mm %e, %m : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,4],f32> -> !torch.vtensor<[4,4],f32>
  return
}

// -----

// CHECK-LABEL: func.func @convolutions
func.func @convolutions(%x: !torch.vtensor<[1,4,8,8],f32>) {
  %none = torch.constant.none
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %2 = torch.constant.int 2
  %zeros = torch.prim.ListConstruct %0, %0 : (!torch.int, !torch.int) -> !torch.list<int>
  %ones = torch.prim.ListConstruct %1, %1 : (!torch.int, !torch.int) -> !torch.list<int>
  %twos = torch.prim.ListConstruct %2, %2 : (!torch.int, !torch.int) -> !torch.list<int>
  // CHECK: torch.aten.conv2d {{.*}} {sparse_gemm.reason = "a 1x1 convolution: replace it by nn.Linear over channels last to make it sparse"}
  %w = "sparse_gemm.weight"() {name = "point.weight"} : () -> !torch.vtensor<[16,4,1,1],f32>
  %a = torch.aten.conv2d %x, %w, %none, %ones, %zeros, %ones, %1 : !torch.vtensor<[1,4,8,8],f32>, !torch.vtensor<[16,4,1,1],f32>, !torch.none, !torch.list<int>, !torch.list<int>, !torch.list<int>, !torch.int -> !torch.vtensor<[1,16,8,8],f32>
  // A stride leaves positions out; groups read some channels each; a larger kernel reads neighbours.
  // CHECK: torch.aten.conv2d {{.*}} {sparse_gemm.reason = "a convolution, not a linear layer"}
  %b = torch.aten.conv2d %x, %w, %none, %twos, %zeros, %ones, %1 : !torch.vtensor<[1,4,8,8],f32>, !torch.vtensor<[16,4,1,1],f32>, !torch.none, !torch.list<int>, !torch.list<int>, !torch.list<int>, !torch.int -> !torch.vtensor<[1,16,4,4],f32>
  // CHECK: torch.aten.conv2d {{.*}} {sparse_gemm.reason = "a convolution, not a linear layer"}
  %g = "sparse_gemm.weight"() {name = "grouped.weight"} : () -> !torch.vtensor<[16,2,1,1],f32>
  %c = torch.aten.conv2d %x, %g, %none, %ones, %zeros, %ones, %2 : !torch.vtensor<[1,4,8,8],f32>, !torch.vtensor<[16,2,1,1],f32>, !torch.none, !torch.list<int>, !torch.list<int>, !torch.list<int>, !torch.int -> !torch.vtensor<[1,16,8,8],f32>
  // CHECK: torch.aten.conv2d {{.*}} {sparse_gemm.reason = "a convolution, not a linear layer"}
  %k = "sparse_gemm.weight"() {name = "conv.weight"} : () -> !torch.vtensor<[16,4,3,3],f32>
  %d = torch.aten.conv2d %x, %k, %none, %ones, %ones, %ones, %1 : !torch.vtensor<[1,4,8,8],f32>, !torch.vtensor<[16,4,3,3],f32>, !torch.none, !torch.list<int>, !torch.list<int>, !torch.list<int>, !torch.int -> !torch.vtensor<[1,16,8,8],f32>
  return
}

// -----

// Operators that the dialect doesn't know are products by their name; experts' weights are of rank 3.
// CHECK-LABEL: func.func @operators
func.func @operators(%x: !torch.vtensor<[?,64],f32>, %s: !torch.vtensor<[2,5,64],f32>, %offsets: !torch.vtensor<[4],si32>) {
  %none = torch.constant.none
  %true = torch.constant.bool true
  %false = torch.constant.bool false
  %drop = torch.constant.float 0.0
  %1 = torch.constant.int 1
  %2 = torch.constant.int 2
  // CHECK: torch.operator "torch.transformers.grouped_mm_fallback"{{.*}} {sparse_gemm.reason = "its weight has rank 3; only matrices can be packed"
  // CHECK: torch.operator "torch.ns.comm"({{[^{]*$}}
  %w = "sparse_gemm.weight"() {name = "experts"} : () -> !torch.vtensor<[4,256,64],f32>
  %t = torch.aten.transpose.int %w, %1, %2 : !torch.vtensor<[4,256,64],f32>, !torch.int, !torch.int -> !torch.vtensor<[4,64,256],f32>
  %y = torch.operator "torch.transformers.grouped_mm_fallback"(%x, %t, %offsets) : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[4,64,256],f32>, !torch.vtensor<[4],si32>) -> !torch.vtensor<[?,256],f32>
  %z = torch.operator "torch.ns.comm"(%w) : (!torch.vtensor<[4,256,64],f32>) -> !torch.vtensor<[4,256,64],f32>
  // CHECK: torch.operator "torch.aten.gru.input"{{.*}} {sparse_gemm.reason = "this gru multiplies by its matrices inside one operator, once a step"}
  %h = "sparse_gemm.weight"() {name = "first"} : () -> !torch.vtensor<[1,2,32],f32>
  %ih = "sparse_gemm.weight"() {name = "ih"} : () -> !torch.vtensor<[96,64],f32>
  %hh = "sparse_gemm.weight"() {name = "hh"} : () -> !torch.vtensor<[96,32],f32>
  %list = torch.prim.ListConstruct %ih, %hh : (!torch.vtensor<[96,64],f32>, !torch.vtensor<[96,32],f32>) -> !torch.list<vtensor>
  %g:2 = torch.operator "torch.aten.gru.input"(%s, %h, %list, %false, %1, %drop, %false, %false, %true) : (!torch.vtensor<[2,5,64],f32>, !torch.vtensor<[1,2,32],f32>, !torch.list<vtensor>, !torch.bool, !torch.int, !torch.float, !torch.bool, !torch.bool, !torch.bool) -> (!torch.vtensor<[2,5,32],f32>, !torch.vtensor<[1,2,32],f32>)
  // CHECK: torch.aten.einsum {{.*}} {sparse_gemm.reason = "an einsum 'bsk,nk->bsn': write it as nn.Linear, if it is one, to make it sparse"}
  %eq = torch.constant.str "bsk,nk->bsn"
  %both = torch.prim.ListConstruct %s, %ih : (!torch.vtensor<[2,5,64],f32>, !torch.vtensor<[96,64],f32>) -> !torch.list<vtensor>
  %e = torch.aten.einsum %eq, %both, %none : !torch.str, !torch.list<vtensor>, !torch.none -> !torch.vtensor<[2,5,96],f32>
  return
}

// -----

// What an unknown operator makes of a weight is computed.
// CHECK-LABEL: func.func @computed
func.func @computed(%x: !torch.vtensor<[4,64],f32>, %g: !torch.vtensor<[64,1],f32>, %i: !torch.int) {
  // CHECK-NOT: sparse_gemm.reason
  // CHECK: return
  %w = "sparse_gemm.weight"() {name = "v"} : () -> !torch.vtensor<[64,32],f32>
  %n = torch.operator "torch.aten._weight_norm"(%w, %g, %i) : (!torch.vtensor<[64,32],f32>, !torch.vtensor<[64,1],f32>, !torch.int) -> !torch.vtensor<[64,32],f32>
  %y = torch.aten.mm %x, %n : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[4,32],f32>
  return
}
