// RUN: sparseflow-opt %s --merge-projections > %t && sparseflow-opt %s > %t.before && diff %t.before %t

// Pairs that differ in something, or that something else depends on, stay apart: the output is the input.

func.func @other_inputs(%x: !torch.vtensor<[3,64],f32>, %z: !torch.vtensor<[3,64],f32>) {
  %none = torch.constant.none
  %a = "sparse_gemm.weight"() {name = "a0"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b0"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %a, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.linear %z, %b, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  return
}

func.func @one_with_bias(%x: !torch.vtensor<[3,64],f32>) {
  %none = torch.constant.none
  %a = "sparse_gemm.weight"() {name = "a1"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b1"} : () -> !torch.vtensor<[32,64],f32>
  %bias = "sparse_gemm.weight"() {name = "bias1"} : () -> !torch.vtensor<[32],f32>
  %0 = torch.aten.linear %x, %a, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.linear %x, %b, %bias : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.vtensor<[32],f32> -> !torch.vtensor<[3,32],f32>
  return
}

func.func @computed_bias(%x: !torch.vtensor<[3,64],f32>, %c: !torch.vtensor<[32],f32>) {
  %a = "sparse_gemm.weight"() {name = "a2"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b2"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %a, %c : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.vtensor<[32],f32> -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.linear %x, %b, %c : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.vtensor<[32],f32> -> !torch.vtensor<[3,32],f32>
  return
}

// Both layers would need the weight's rows twice.
func.func @shared_weight(%x: !torch.vtensor<[3,64],f32>) {
  %none = torch.constant.none
  %a = "sparse_gemm.weight"() {name = "a3"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %a, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.linear %x, %a, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  return
}

func.func @weight_read_elsewhere(%x: !torch.vtensor<[3,64],f32>) -> !torch.vtensor<[32,64],f32> {
  %none = torch.constant.none
  %a = "sparse_gemm.weight"() {name = "a4"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b4"} : () -> !torch.vtensor<[32,64],f32>
  %again = "sparse_gemm.weight"() {name = "b4"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %a, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.linear %x, %b, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  return %again : !torch.vtensor<[32,64],f32>
}

func.func @another_policy_epilogue_or_kind(%x: !torch.vtensor<[3,64],f32>, %r: !torch.vtensor<[3,32],f32>) {
  %none = torch.constant.none
  %a = "sparse_gemm.weight"() {name = "a5"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b5"} : () -> !torch.vtensor<[32,64],f32>
  %c = "sparse_gemm.weight"() {name = "c5"} : () -> !torch.vtensor<[32,64],f32>
  %d = "sparse_gemm.weight"() {name = "d5"} : () -> !torch.vtensor<[32,64],f32>
  %e = "sparse_gemm.weight"() {name = "e5"} : () -> !torch.vtensor<[32,64],f32>
  %0 = "sparse_gemm.linear"(%x, %a) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %1 = "sparse_gemm.linear"(%x, %b) {format = "2:4", epilogue = "none", policy = "1:cpu", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %2 = "sparse_gemm.linear"(%x, %c) {format = "2:4", epilogue = "silu", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %3 = torch.aten.linear %x, %d, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %4 = "sparse_gemm.linear"(%x, %e, %r) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 1>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.vtensor<[3,32],f32>) -> !torch.vtensor<[3,32],f32>
  return
}

// A layer that was left dense for a reason keeps it.
func.func @reasoned(%x: !torch.vtensor<[3,64],f32>) {
  %none = torch.constant.none
  %a = "sparse_gemm.weight"() {name = "a6"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b6"} : () -> !torch.vtensor<[32,64],f32>
  %0 = torch.aten.linear %x, %a, %none {sparse_gemm.reason = "skipped"} : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.linear %x, %b, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  return
}

// Layers of two branches don't dominate each other.
func.func @two_blocks(%x: !torch.vtensor<[3,64],f32>, %c: !torch.bool) {
  %none = torch.constant.none
  torch.prim.If %c -> () {
    %a = "sparse_gemm.weight"() {name = "a7"} : () -> !torch.vtensor<[32,64],f32>
    %0 = torch.aten.linear %x, %a, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
    torch.prim.If.yield
  } else {
    %b = "sparse_gemm.weight"() {name = "b7"} : () -> !torch.vtensor<[32,64],f32>
    %1 = torch.aten.linear %x, %b, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
    torch.prim.If.yield
  }
  return
}
