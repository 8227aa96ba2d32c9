// RUN: sparseflow-opt %s --fuse-epilogue="parts=relu,bias" | FileCheck %s
// RUN: not sparseflow-opt %s --fuse-epilogue="parts=relu,softmax" 2>&1 | FileCheck %s --check-prefix=BAD

// BAD: option 'parts': can be any of bias, relu, gelu, gelu_tanh, silu, residual, not softmax
// CHECK: %[[A:.*]] = "sparse_gemm.linear"(%arg0, %{{.*}}, %{{.*}}) {epilogue = "relu"
// CHECK: %[[S:.*]] = torch.aten.add.Tensor %[[A]], %arg1
// CHECK: %[[B:.*]] = "sparse_gemm.linear"(%arg0, %{{.*}}) {epilogue = "none"
// CHECK: torch.aten.silu %[[B]]
func.func @main(%x: !torch.vtensor<[3,64],f32>, %r: !torch.vtensor<[3,32],f32>) -> (!torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>) {
  %one = torch.constant.int 1
  %a = "sparse_gemm.weight"() {name = "a"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32,64],f32>
  %bias = "sparse_gemm.weight"() {name = "bias"} : () -> !torch.vtensor<[32],f32>
  %ya = "sparse_gemm.linear"(%x, %a) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %ba = torch.aten.add.Tensor %ya, %bias, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  %ra = torch.aten.relu %ba : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  %sa = torch.aten.add.Tensor %ra, %r, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  %yb = "sparse_gemm.linear"(%x, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %rb = torch.aten.silu %yb : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  return %sa, %rb : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>
}
