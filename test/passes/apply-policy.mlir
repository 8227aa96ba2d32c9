// RUN: echo '{"f32:32x64": "1:cpu,512:dense", "f16:32x64": "dense", "bf16:32x64": {"dense": "slower at every M"}, "f8E4M3FN:64x64": {"dense": "slower too", "policy": "1:dense"}, "f8E4M3FN:64x128": {"dense": "no table has it"}, "f32:96x64": {"policy": "1:cpu,8:dense", "keeps_dense": true}}' > %t.json
// RUN: sparseflow-opt %s --apply-policy=table=%t.json | FileCheck %s
// RUN: sparseflow-opt %s --apply-policy=table=%t.json --apply-policy=table=%t.json | FileCheck %s

// CHECK-LABEL: func.func @known
func.func @known(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,32],f32> {
  // CHECK: "sparse_gemm.linear"(%arg0, %{{.*}}) {{.*}}policy = "1:cpu,512:dense"}
  %w = "sparse_gemm.weight"() {name = "w0"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[?,32],f32>
  return %y : !torch.vtensor<[?,32],f32>
}

// CHECK-LABEL: func.func @unknown
func.func @unknown(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,48],f32> {
  // CHECK: "sparse_gemm.linear"(%arg0, %{{.*}}) {{.*}}policy = "1:dense"}
  %w = "sparse_gemm.weight"() {name = "w1"} : () -> !torch.vtensor<[48,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "1:dense", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[48,64],f32>) -> !torch.vtensor<[?,48],f32>
  return %y : !torch.vtensor<[?,48],f32>
}

// CHECK-LABEL: func.func @kept
func.func @kept(%x: !torch.vtensor<[?,64],f32>) -> !torch.vtensor<[?,96],f32> {
  // CHECK: "sparse_gemm.linear"(%arg0, %{{.*}}) {{.*}}keeps_dense, {{.*}}policy = "1:cpu,8:dense"}
  %w = "sparse_gemm.weight"() {name = "w6"} : () -> !torch.vtensor<[96,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],f32>, !torch.vtensor<[96,64],f32>) -> !torch.vtensor<[?,96],f32>
  return %y : !torch.vtensor<[?,96],f32>
}

// CHECK-LABEL: func.func @dense
func.func @dense(%x: !torch.vtensor<[?,64],f16>, %b: !torch.vtensor<[32],f16>) -> !torch.vtensor<[?,32],f16> {
  // CHECK: torch.aten.linear %arg0, %{{.*}}, %arg1 {sparse_gemm.reason = "measured to be no faster sparse (f16:32x64)"}
  %w = "sparse_gemm.weight"() {name = "w2"} : () -> !torch.vtensor<[32,64],f16>
  %y = "sparse_gemm.linear"(%x, %w, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[?,64],f16>, !torch.vtensor<[32,64],f16>, !torch.vtensor<[32],f16>) -> !torch.vtensor<[?,32],f16>
  return %y : !torch.vtensor<[?,32],f16>
}

// Each epilogue, and the residual, become operations of their own.
// CHECK-LABEL: func.func @dense_with_epilogue
func.func @dense_with_epilogue(%x: !torch.vtensor<[?,64],bf16>, %r: !torch.vtensor<[?,32],bf16>) {
  %w = "sparse_gemm.weight"() {name = "w3"} : () -> !torch.vtensor<[32,64],bf16>
  // CHECK: %[[Y0:.*]] = torch.aten.linear {{.*}} {sparse_gemm.reason = "slower at every M"}
  // CHECK: %[[A0:.*]] = torch.aten.relu %[[Y0]]
  // CHECK: torch.aten.add.Tensor %[[A0]], %arg1
  %0 = "sparse_gemm.linear"(%x, %w, %r) {format = "2:4", epilogue = "relu", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 1>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[32,64],bf16>, !torch.vtensor<[?,32],bf16>) -> !torch.vtensor<[?,32],bf16>
  // CHECK: %[[Y1:.*]] = torch.aten.linear
  // CHECK: torch.aten.silu %[[Y1]]
  %1 = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "silu", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[32,64],bf16>) -> !torch.vtensor<[?,32],bf16>
  // CHECK: %[[Y2:.*]] = torch.aten.linear
  // CHECK: %[[N:.*]] = torch.constant.str "none"
  // CHECK: torch.aten.gelu %[[Y2]], %[[N]]
  %2 = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "gelu", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[32,64],bf16>) -> !torch.vtensor<[?,32],bf16>
  // CHECK: %[[Y3:.*]] = torch.aten.linear
  // CHECK: %[[T:.*]] = torch.constant.str "tanh"
  // CHECK: torch.aten.gelu %[[Y3]], %[[T]]
  %3 = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "gelu_tanh", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[32,64],bf16>) -> !torch.vtensor<[?,32],bf16>
  return
}

// What a layer in a lossy format computes doesn't depend on what was measured: with a policy it keeps the format.
// CHECK-LABEL: func.func @lossy
func.func @lossy(%x: !torch.vtensor<[?,64],bf16>, %z: !torch.vtensor<[?,128],bf16>) {
  %v = "sparse_gemm.weight"() {name = "w4"} : () -> !torch.vtensor<[64,64],bf16>
  %w = "sparse_gemm.weight"() {name = "w5"} : () -> !torch.vtensor<[64,128],bf16>
  // CHECK: "sparse_gemm.linear"{{.*}}format = "2:4-fp8"{{.*}}policy = "1:dense"
  %0 = "sparse_gemm.linear"(%x, %v) {format = "2:4-fp8", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,64],bf16>
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "no table has it"}
  %1 = "sparse_gemm.linear"(%z, %w) {format = "2:4-fp8", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,128],bf16>, !torch.vtensor<[64,128],bf16>) -> !torch.vtensor<[?,64],bf16>
  return
}
