// RUN: sparseflow-opt %s --drop-true-masks | FileCheck %s

// As transformers makes it for an encoder that is given none: no place is before the first.
// CHECK-LABEL: func.func @encoder
// CHECK: torch.aten.scaled_dot_product_attention %{{.*}}, %{{.*}}, %{{.*}}, %none{{.*}}, %{{.*}}, %false,
func.func @encoder(%q: !torch.vtensor<[?,4,?,32],bf16>) -> !torch.vtensor<[?,4,?,32],bf16> {
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
  %true = torch.aten.ge.Scalar %queries, %0 : !torch.vtensor<[?,1],si64>, !torch.int -> !torch.vtensor<[?,1],i1>
  %sizes = torch.prim.ListConstruct %b, %m1, %s, %s : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %u0 = torch.aten.unsqueeze %true, %0 : !torch.vtensor<[?,1],i1>, !torch.int -> !torch.vtensor<[1,?,1],i1>
  %u1 = torch.aten.unsqueeze %u0, %0 : !torch.vtensor<[1,?,1],i1>, !torch.int -> !torch.vtensor<[1,1,?,1],i1>
  %mask = torch.aten.expand %u1, %sizes, %false : !torch.vtensor<[1,1,?,1],i1>, !torch.list<int>, !torch.bool -> !torch.vtensor<[?,1,?,?],i1>
  %y = torch.aten.scaled_dot_product_attention %q, %q, %q, %mask, %p, %false, %none, %false : !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,4,?,32],bf16>, !torch.vtensor<[?,1,?,?],i1>, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[?,4,?,32],bf16>
  return %y : !torch.vtensor<[?,4,?,32],bf16>
}
