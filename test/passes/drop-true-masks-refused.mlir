// RUN: sparseflow-opt %s --split-input-file --drop-true-masks | FileCheck %s

// The first place is left out.
// CHECK-LABEL: func.func @not_the_first
// CHECK: %[[MASK:.*]] = torch.aten.expand
// CHECK: torch.aten.scaled_dot_product_attention %{{.*}}, %{{.*}}, %{{.*}}, %[[MASK]],
func.func @not_the_first(%q: !torch.vtensor<[?,4,?,32],bf16>) -> !torch.vtensor<[?,4,?,32],bf16> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %2 = torch.constant.int 2
  %3 = torch.constant.int 3
  %b = torch.aten.size.int %q, %0 : !torch.vtensor<[?,4,?,32],bf16>, !torch.int -> !torch.int
  %s = torch.aten.size.int %q, %2 : !torch.vtensor<[?,4,?,32],bf16>, !torch.int -> !torch.int
  %places = torch.aten.arange %s, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %queries = torch.aten.unsqueeze %places, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %true = torch.aten.ge.Scalar %queries, %1 : !torch.vtensor<[?,1],si64>, !torch.int -> !torch.vtensor<[?,1],i1>
  %sizes = torch.prim.ListConstruct %b, %m1, %s, %s : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %u0 = torch.aten.unsqueeze %true, %0 : !torch.vtensor<[?,1],i1>, !torch.int -> !torch.vtensor<[1,?,1],i1>
  %u1 = torch.aten.unsqueeze %u0, %0 : !torch.vtensor<[1,?,1],i1>, !torch.int -> !torch.vtensor<[1,1,?,1],i1>
  %mask = torch.aten.expand %u1, %sizes, %false : !torch.vtensor<[1,1,?,1],i1>, !torch.list<int>, !torch.bool -> !torch.vtensor<[?,1,?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %q, %q, %q, %mask, %p, %false, %none, %false : !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,1,?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,32],bf16>
  return %y : !torch.vtensor<[?,4,?,32],bf16>
}

// -----

// What a call says of its keys counts.
// CHECK-LABEL: func.func @padded
// CHECK-SAME: %[[MASK:[^ ]*]]: !torch.vtensor<[?,1,?,?],i1>
// CHECK: torch.aten.scaled_dot_product_attention %{{.*}}, %{{.*}}, %{{.*}}, %[[MASK]],
func.func @padded(%q: !torch.vtensor<[?,4,?,32],bf16>, %mask: !torch.vtensor<[?,1,?,?],i1>) -> !torch.vtensor<[?,4,?,32],bf16> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %2 = torch.constant.int 2
  %3 = torch.constant.int 3
  %y = torch.aten.scaled_dot_product_attention %q, %q, %q, %mask, %p, %false, %none, %false : !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,1,?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,32],bf16>
  return %y : !torch.vtensor<[?,4,?,32],bf16>
}

// -----

// A mask for three calls may make results for three out of one.
// CHECK-LABEL: func.func @of_another_batch
// CHECK: %[[MASK:.*]] = torch.aten.expand
// CHECK: torch.aten.scaled_dot_product_attention %{{.*}}, %{{.*}}, %{{.*}}, %[[MASK]],
func.func @of_another_batch(%q: !torch.vtensor<[?,4,?,32],bf16>) -> !torch.vtensor<[?,4,?,32],bf16> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %2 = torch.constant.int 2
  %3 = torch.constant.int 3
  %s = torch.aten.size.int %q, %2 : !torch.vtensor<[?,4,?,32],bf16>, !torch.int -> !torch.int
  %places = torch.aten.arange %s, %none, %none, %cpu, %false : !torch.int, !torch.none, !torch.none, !torch.Device, !torch.bool -> !torch.vtensor<[?],si64>
  %queries = torch.aten.unsqueeze %places, %1 : !torch.vtensor<[?],si64>, !torch.int -> !torch.vtensor<[?,1],si64>
  %true = torch.aten.ge.Scalar %queries, %0 : !torch.vtensor<[?,1],si64>, !torch.int -> !torch.vtensor<[?,1],i1>
  %sizes = torch.prim.ListConstruct %3, %m1, %s, %s : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %u0 = torch.aten.unsqueeze %true, %0 : !torch.vtensor<[?,1],i1>, !torch.int -> !torch.vtensor<[1,?,1],i1>
  %u1 = torch.aten.unsqueeze %u0, %0 : !torch.vtensor<[1,?,1],i1>, !torch.int -> !torch.vtensor<[1,1,?,1],i1>
  %mask = torch.aten.expand %u1, %sizes, %false : !torch.vtensor<[1,1,?,1],i1>, !torch.list<int>, !torch.bool -> !torch.vtensor<[?,1,?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %q, %q, %q, %mask, %p, %false, %none, %false : !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,1,?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,32],bf16>
  return %y : !torch.vtensor<[?,4,?,32],bf16>
}

// -----

// Added to the scores, not a choice among them.
// CHECK-LABEL: func.func @added
// CHECK: %[[MASK:.*]] = torch.aten.ones
// CHECK: torch.aten.scaled_dot_product_attention %{{.*}}, %{{.*}}, %{{.*}}, %[[MASK]],
func.func @added(%q: !torch.vtensor<[?,4,?,32],bf16>) -> !torch.vtensor<[?,4,?,32],bf16> {
  %none = torch.constant.none
  %false = torch.constant.bool false
  %cpu = torch.constant.device "cpu"
  %p = torch.constant.float 0.0
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %2 = torch.constant.int 2
  %3 = torch.constant.int 3
  %one = torch.prim.ListConstruct %1, %1 : (!torch.int, !torch.int) -> !torch.list<int>
  %15 = torch.constant.int 15
  %mask = torch.aten.ones %one, %15, %none, %none, %none : !torch.list<int>, !torch.int, !torch.none, !torch.none, !torch.none -> !torch.vtensor<[1,1],bf16>
  %y = torch.aten.scaled_dot_product_attention %q, %q, %q, %mask, %p, %false, %none, %false : !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[1,1],bf16>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,32],bf16>
  return %y : !torch.vtensor<[?,4,?,32],bf16>
}
