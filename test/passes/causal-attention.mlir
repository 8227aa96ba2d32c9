// RUN: sparseflow-opt %s --split-input-file --causal-attention | FileCheck %s

// As transformers makes it where no mask is given: places compared, and'ed with what is true everywhere.
// CHECK-LABEL: func.func @causal
func.func @causal(%ids: !torch.vtensor<[?,?],si64>, %q: !torch.vtensor<[?,4,?,32],bf16>) -> (!torch.vtensor<[?,4,?,32],bf16>) {
  // CHECK: torch.aten.scaled_dot_product_attention %{{.*}}, %{{.*}}, %{{.*}}, %none{{.*}}, %{{.*}}, %true,
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %2 = torch.constant.int 2
  %3 = torch.constant.int 3
  %4 = torch.constant.int 4
  %11 = torch.constant.int 11
  %32 = torch.constant.int 32
  %b = torch.aten.size.int %ids, %0 : !torch.vtensor<[?,?],si64>, !torch.int -> !torch.int
  %s = torch.aten.size.int %ids, %1 : !torch.vtensor<[?,?],si64>, !torch.int -> !torch.int
  %shape = torch.prim.ListConstruct %b, %4, %s, %32 : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %x = torch.aten.view %q, %shape : !torch.vtensor<[?,4,?,32],bf16>, !torch.list<int> -> !torch.vtensor<[?,4,?,32],bf16>
  %places = torch.aten.arange %s, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %moved = torch.aten.add.Scalar %places, %0, %1 : !torch.vtensor<[?],si64>, !torch.int, !torch.int -> !torch.vtensor<[?],si64>
  %row = torch.aten.unsqueeze %moved, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %first = torch.aten.slice.Tensor %row, %1, %0, %1, %1 : !torch.vtensor<[1,?],si64>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,1],si64>
  %before = torch.aten.sub.Scalar %first, %1, %1 : !torch.vtensor<[1,1],si64>, !torch.int, !torch.int -> !torch.vtensor<[1,1],si64>
  %steps = torch.operator "torch.aten.diff"(%row, %1, %m1, %before, %none) : (!torch.vtensor<[1,?],si64>, !torch.int, !torch.int, !torch.vtensor<[1,1],si64>, !torch.none) -> !torch.vtensor<[1,?],si64>
  %jumps = torch.aten.ne.Scalar %steps, %1 : !torch.vtensor<[1,?],si64>, !torch.int -> !torch.vtensor<[1,?],i1>
  %document = torch.aten.cumsum %jumps, %m1, %none : !torch.vtensor<[1,?],i1>, !torch.int, !torch.none -> !torch.vtensor<[1,?],si64>
  %one = torch.aten.arange %1, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[1],si64>
  %batch = torch.aten.unsqueeze %one, %1 : !torch.vtensor<[1],si64>, !torch.int -> !torch.vtensor<[1,1],si64>
  %queries = torch.aten.unsqueeze %places, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %keys = torch.aten.unsqueeze %places, %0 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[1,?],si64>
  %of_queries = torch.prim.ListConstruct %batch, %queries : (!torch.vtensor<[1,1],si64>, !torch.vtensor<[?,1],si64>) -> !torch.list<optional<vtensor>>
  %of_keys = torch.prim.ListConstruct %batch, %keys : (!torch.vtensor<[1,1],si64>, !torch.vtensor<[1,?],si64>) -> !torch.list<optional<vtensor>>
  %d0 = torch.aten.index.Tensor %document, %of_queries : !torch.vtensor<[1,?],si64>, !torch.list<optional<vtensor>> -> !torch.vtensor<[?,1],si64>
  %d1 = torch.aten.index.Tensor %document, %of_keys : !torch.vtensor<[1,?],si64>, !torch.list<optional<vtensor>> -> !torch.vtensor<[1,?],si64>
  %same = torch.aten.eq.Tensor %d0, %d1 : !torch.vtensor<[?,1],si64>, !torch.vtensor<[1,?],si64> -> !torch.vtensor<[?,?],i1>
  %p0 = torch.aten.index.Tensor %row, %of_queries : !torch.vtensor<[1,?],si64>, !torch.list<optional<vtensor>> -> !torch.vtensor<[?,1],si64>
  %p1 = torch.aten.index.Tensor %row, %of_keys : !torch.vtensor<[1,?],si64>, !torch.list<optional<vtensor>> -> !torch.vtensor<[1,?],si64>
  %le = torch.aten.le.Tensor %p1, %p0 : !torch.vtensor<[1,?],si64>, !torch.vtensor<[?,1],si64> -> !torch.vtensor<[?,?],i1>
  %empty = torch.prim.ListConstruct  : () -> !torch.list<int>
  %all = torch.aten.new_ones %row, %empty, %11, %none, %none, %false : !torch.vtensor<[1,?],si64>, !torch.list<int>, !torch.int, !torch.none, !torch.none, !torch.bool -> !torch.vtensor<[],i1>
  %and0 = torch.aten.__and__.Tensor %all, %same : !torch.vtensor<[],i1>, !torch.vtensor<[?,?],i1> -> !torch.vtensor<[?,?],i1>
  %and1 = torch.aten.__and__.Tensor %and0, %le : !torch.vtensor<[?,?],i1>, !torch.vtensor<[?,?],i1> -> !torch.vtensor<[?,?],i1>
  %sizes = torch.prim.ListConstruct %b, %m1, %s, %s : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %u0 = torch.aten.unsqueeze %and1, %0 : !torch.vtensor<[?,?],i1>, !torch.int -> !torch.vtensor<[1,?,?],i1>
  %u1 = torch.aten.unsqueeze %u0, %0 : !torch.vtensor<[1,?,?],i1>, !torch.int -> !torch.vtensor<[1,1,?,?],i1>
  %mask = torch.aten.expand %u1, %sizes, %false : !torch.vtensor<[1,1,?,?],i1>, !torch.list<int>, !torch.bool -> !torch.vtensor<[?,1,?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %x, %x, %x, %mask, %p, %false, %none, %false : !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,1,?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,32],bf16>
  return %y : !torch.vtensor<[?,4,?,32],bf16>
}

// -----

// The queries are turned by angles that a product of matrices makes: they are as many as the places.
// CHECK-LABEL: func.func @rotated
// CHECK: torch.aten.scaled_dot_product_attention %{{.*}}, %{{.*}}, %{{.*}}, %none{{.*}}, %{{.*}}, %true,
func.func @rotated(%x: !torch.vtensor<[?,?,32],bf16>, %inverse: !torch.vtensor<[1,32,1],f32>) -> (!torch.vtensor<[?,?,32],bf16>) {
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
  %2 = torch.constant.int 2
  %6 = torch.constant.int 6
  %15 = torch.constant.int 15
  %row = torch.aten.unsqueeze %keys, %1 : !torch.vtensor<[1,?],si64>, !torch.int -> !torch.vtensor<[1,1,?],si64>
  %float = torch.aten.to.dtype %row, %6, %false, %false, %none : !torch.vtensor<[1,1,?],si64>, !torch.int, !torch.bool, !torch.bool, !torch.none -> !torch.vtensor<[1,1,?],f32>
  %angles = torch.aten.matmul %inverse, %float : !torch.vtensor<[1,32,1],f32>, !torch.vtensor<[1,1,?],f32> -> !torch.vtensor<[1,32,?],f32>
  %turned = torch.aten.transpose.int %angles, %1, %2 : !torch.vtensor<[1,32,?],f32>, !torch.int, !torch.int -> !torch.vtensor<[1,?,32],f32>
  %half = torch.aten.to.dtype %turned, %15, %false, %false, %none : !torch.vtensor<[1,?,32],f32>, !torch.int, !torch.bool, !torch.bool, !torch.none -> !torch.vtensor<[1,?,32],bf16>
  %q = torch.aten.mul.Tensor %x, %half : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[1,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %mask = torch.aten.le.Tensor %keys, %queries : !torch.vtensor<[1,?],si64>, !torch.vtensor<[?,1],si64> -> !torch.vtensor<[?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %q, %q, %x, %mask, %p, %false, %none, %false : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,?,32],bf16>
  return %y : !torch.vtensor<[?,?,32],bf16>
}
