// RUN: sparseflow-opt %s --lower-decode-attention | FileCheck %s

// CHECK-LABEL: func.func @step
func.func @step(%q: !torch.vtensor<[?,4,1,8],f32>, %k: !torch.vtensor<[?,2,?,8],f32>, %position: !torch.vtensor<[],si64>, %keep: !torch.vtensor<[?,?],i1>) -> (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,4,1,8],f32>) {
  // CHECK: torch.operator "torch.sparseflow.decode_attention"(%arg0, %arg1, %arg1, %arg2, %arg3, %float2.500000e-01, %int8) :
  %0 = "sparse_gemm.decode_attention"(%q, %k, %k, %position, %keep) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[],si64>, !torch.vtensor<[?,?],i1>) -> !torch.vtensor<[?,4,1,8],f32>
  // CHECK: torch.operator "torch.sparseflow.decode_attention"(%arg0, %arg1, %arg1, %none{{.*}}, %none{{.*}}, %float2.500000e-01{{.*}}, %int0) :
  %1 = "sparse_gemm.decode_attention"(%q, %k, %k) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, scale = 0.25 : f64, window = 0 : i64} : (!torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,2,?,8],f32>, !torch.vtensor<[?,2,?,8],f32>) -> !torch.vtensor<[?,4,1,8],f32>
  return %0, %1 : !torch.vtensor<[?,4,1,8],f32>, !torch.vtensor<[?,4,1,8],f32>
}

// Many queries, or a number that isn't known, are those of a prompt.
// CHECK-LABEL: func.func @prompt
func.func @prompt(%q: !torch.vtensor<[?,4,?,8],bf16>, %r: !torch.vtensor<[1,4,17,8],f16>, %k: !torch.vtensor<[?,2,64,8],bf16>, %l: !torch.vtensor<[1,2,64,8],f16>, %position: !torch.vtensor<[],si64>) -> (!torch.vtensor<[?,4,?,8],bf16>, !torch.vtensor<[1,4,17,8],f16>) {
  // CHECK: torch.operator "torch.sparseflow.prompt_attention"(%arg0, %arg2, %arg2, %arg4, %float2.500000e-01, %int8) :
  %0 = "sparse_gemm.decode_attention"(%q, %k, %k, %position) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 0>, scale = 0.25 : f64, window = 8 : i64} : (!torch.vtensor<[?,4,?,8],bf16>, !torch.vtensor<[?,2,64,8],bf16>, !torch.vtensor<[?,2,64,8],bf16>, !torch.vtensor<[],si64>) -> !torch.vtensor<[?,4,?,8],bf16>
  // CHECK: torch.operator "torch.sparseflow.prompt_attention"(%arg1, %arg3, %arg3, %arg4, %float2.500000e-01{{.*}}, %int0) :
  %1 = "sparse_gemm.decode_attention"(%r, %l, %l, %position) {operandSegmentSizes = array<i32: 1, 1, 1, 1, 0>, scale = 0.25 : f64, window = 0 : i64} : (!torch.vtensor<[1,4,17,8],f16>, !torch.vtensor<[1,2,64,8],f16>, !torch.vtensor<[1,2,64,8],f16>, !torch.vtensor<[],si64>) -> !torch.vtensor<[1,4,17,8],f16>
  return %0, %1 : !torch.vtensor<[?,4,?,8],bf16>, !torch.vtensor<[1,4,17,8],f16>
}
