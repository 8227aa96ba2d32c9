// RUN: sparseflow-opt %s --split-input-file --lower-contextual-mlp | FileCheck %s

// CHECK-LABEL: func.func @gated
func.func @gated(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-DAG: %[[U:.*]] = "sparse_gemm.weight"() {contiguous, name = "up.weight"}
  // CHECK-DAG: %[[D:.*]] = "sparse_gemm.weight"() {contiguous, name = "down.weight", transposed}
  // CHECK-DAG: %[[A:.*]] = "sparse_gemm.weight"() {contiguous, name = "up/pred_a"}
  // CHECK-DAG: %[[B:.*]] = "sparse_gemm.weight"() {contiguous, name = "up/pred_b"}
  // CHECK-DAG: %[[G:.*]] = "sparse_gemm.weight"() {contiguous, name = "gate.weight"}
  // CHECK-DAG: %[[BD:.*]] = "sparse_gemm.weight"() {name = "down.bias"}
  // CHECK-DAG: %[[RULE:.*]] = torch.constant.str "top_k"
  // CHECK-DAG: %[[K:.*]] = torch.constant.float 4.000000e+00
  // CHECK-DAG: %[[ACT:.*]] = torch.constant.str "silu"
  // CHECK-DAG: %[[M:.*]] = torch.constant.int 8
  // CHECK: %[[Y:.*]] = torch.operator "torch.sparseflow.contextual_mlp_auto"(%arg0, %[[G]], %[[U]], %[[D]], %none{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %[[BD]], %[[A]], %[[B]], %none{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %[[RULE]], %[[K]], %[[ACT]], %[[M]])
  // CHECK-NOT: sparse_gemm.contextual_mlp
  // CHECK: return %[[Y]]
  %u = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %d = "sparse_gemm.weight"() {name = "down.weight", transposed} : () -> !torch.vtensor<[16,8],f32>
  %a = "sparse_gemm.weight"() {name = "up/pred_a"} : () -> !torch.vtensor<[2,8],f32>
  %b = "sparse_gemm.weight"() {name = "up/pred_b"} : () -> !torch.vtensor<[16,2],f32>
  %g = "sparse_gemm.weight"() {name = "gate.weight"} : () -> !torch.vtensor<[16,8],f32>
  %bd = "sparse_gemm.weight"() {name = "down.bias"} : () -> !torch.vtensor<[8],f32>
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b, %g, %bd) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[8],f32>) -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// CHECK-LABEL: func.func @by_gate
func.func @by_gate(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-DAG: %[[U:.*]] = "sparse_gemm.weight"() {contiguous, name = "up.weight"}
  // CHECK-DAG: %[[D:.*]] = "sparse_gemm.weight"() {contiguous, name = "down.weight"}
  // CHECK: torch.operator "torch.sparseflow.contextual_mlp_by_gate"(%arg0, %none{{[^,]*}}, %[[U]], %[[D]], %none{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %float2.500000e-01, %str, %int4)
  %u = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %d = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[16,8],f32>
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d) {activation = "relu", rule = "gate", parameter = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}
