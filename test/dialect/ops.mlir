// RUN: sparseflow-opt %s | FileCheck %s
// RUN: sparseflow-opt %s | sparseflow-opt | FileCheck %s
// RUN: sparseflow-opt %s --emit-bytecode -o %t && sparseflow-opt %t | FileCheck %s

// What the verifiers accept: static, dynamic and unknown shapes, every optional part.

// CHECK-LABEL: func.func @weights
func.func @weights() {
  // CHECK: "sparse_gemm.weight"() {name = "a.weight"} : () -> !torch.vtensor<[8,64],f32>
  %0 = "sparse_gemm.weight"() {name = "a.weight"} : () -> !torch.vtensor<[8,64],f32>
  // CHECK: "sparse_gemm.weight"() {name = "a.weight", transposed} : () -> !torch.vtensor<[64,8],f32>
  %1 = "sparse_gemm.weight"() {name = "a.weight", transposed} : () -> !torch.vtensor<[64,8],f32>
  // CHECK: {name = "ids", sparse_gemm.dense = "not 2:4"} : () -> !torch.vtensor<[],si64>
  %2 = "sparse_gemm.weight"() {name = "ids", sparse_gemm.dense = "not 2:4"} : () -> !torch.vtensor<[],si64>
  // CHECK: "sparse_gemm.weight"() {name = "u"} : () -> !torch.vtensor
  %3 = "sparse_gemm.weight"() {name = "u"} : () -> !torch.vtensor
  // CHECK: "sparse_gemm.merged_weight"() {names = ["a", "b"]} : () -> !torch.vtensor<[8],f32>
  %4 = "sparse_gemm.merged_weight"() {names = ["a", "b"]} : () -> !torch.vtensor<[8],f32>
  // CHECK: {names = ["a", "b"], sizes = array<i64: 3, 5>, transposed = array<i1: true, false>}
  %5 = "sparse_gemm.merged_weight"() {names = ["a", "b"], sizes = array<i64: 3, 5>, transposed = array<i1: true, false>} : () -> !torch.vtensor<[8,6],f32>
  // K = 6 is padded to 8.
  // CHECK: "sparse_gemm.packed_weight"() {format = "2:4", names = ["a"], weight = !torch.vtensor<[8,6],bf16>} : () -> !torch.tuple<vtensor<[8,4],bf16>, vtensor<[8,1],ui8>>
  %6 = "sparse_gemm.packed_weight"() {names = ["a"], format = "2:4", weight = !torch.vtensor<[8,6],bf16>} : () -> !torch.tuple<vtensor<[8,4],bf16>, vtensor<[8,1],ui8>>
  return
}

// CHECK-LABEL: func.func @linear_with_everything
func.func @linear_with_everything(%x: !torch.vtensor<[?,?,64],f16>, %w: !torch.vtensor<[8,64],f16>, %b: !torch.vtensor<[8],f16>, %r: !torch.vtensor<[?,?,8],f16>) -> !torch.vtensor<[?,?,8],f16> {
  // CHECK: "sparse_gemm.linear"(%arg0, %arg1, %arg2, %arg3) {epilogue = "gelu_tanh", format = "2:4", operandSegmentSizes = array<i32: 1, 1, 1, 1>, policy = "1:cpu,512:dense"}
  %y = "sparse_gemm.linear"(%x, %w, %b, %r) {format = "2:4", epilogue = "gelu_tanh", policy = "1:cpu,512:dense", operandSegmentSizes = array<i32: 1, 1, 1, 1>} : (!torch.vtensor<[?,?,64],f16>, !torch.vtensor<[8,64],f16>, !torch.vtensor<[8],f16>, !torch.vtensor<[?,?,8],f16>) -> !torch.vtensor<[?,?,8],f16>
  return %y : !torch.vtensor<[?,?,8],f16>
}

// CHECK-LABEL: func.func @linear_of_a_vector
func.func @linear_of_a_vector(%x: !torch.vtensor<[64],f32>, %w: !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[8],f32> {
  // CHECK: operandSegmentSizes = array<i32: 1, 1, 0, 0>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[64],f32>, !torch.vtensor<[8,64],f32>) -> !torch.vtensor<[8],f32>
  return %y : !torch.vtensor<[8],f32>
}

// CHECK-LABEL: func.func @linear_of_unknown_shapes
func.func @linear_of_unknown_shapes(%x: !torch.vtensor<*,f32>, %w: !torch.vtensor<[?,64],f32>, %r: !torch.vtensor) -> !torch.vtensor {
  // CHECK: operandSegmentSizes = array<i32: 1, 1, 0, 1>
  %y = "sparse_gemm.linear"(%x, %w, %r) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 1>} : (!torch.vtensor<*,f32>, !torch.vtensor<[?,64],f32>, !torch.vtensor) -> !torch.vtensor
  return %y : !torch.vtensor
}
