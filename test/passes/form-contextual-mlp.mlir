// RUN: echo '{"up": {"rank": 2, "rule": "top_k", "parameter": 4, "dtype": "bf16", "m_max": 8}, "quiet": {"rank": 2, "rule": "threshold", "parameter": 0.5, "dtype": "si8", "m_max": 1, "bias": false}, "free": {"rank": 0, "rule": "gate", "parameter": 0.25, "dtype": "f32", "m_max": 4, "up_policy": "1:cpu", "down_policy": ""}}' > %t.json
// RUN: sparseflow-opt %s --split-input-file --form-contextual-mlp=table=%t.json | FileCheck %s

// Llama, Qwen, Mistral: a gate, no biases. The down weight is read transposed.
// CHECK-LABEL: func.func @gated
func.func @gated(%x: !torch.vtensor<[?,?,8],f32>) -> !torch.vtensor<[?,?,8],f32> {
  // CHECK-DAG: %[[G:.*]] = "sparse_gemm.weight"() {name = "gate.weight"}
  // CHECK-DAG: %[[U:.*]] = "sparse_gemm.weight"() {name = "up.weight"}
  // CHECK-DAG: %[[PB:.*]] = "sparse_gemm.weight"() {name = "up/pred_bias"} : () -> !torch.vtensor<[16],f32>
  // CHECK-DAG: %[[D:.*]] = "sparse_gemm.weight"() {name = "down.weight", transposed} : () -> !torch.vtensor<[16,8],f32>
  // CHECK-DAG: %[[A:.*]] = "sparse_gemm.weight"() {name = "up/pred_a"} : () -> !torch.vtensor<[2,8],bf16>
  // CHECK-DAG: %[[B:.*]] = "sparse_gemm.weight"() {name = "up/pred_b"} : () -> !torch.vtensor<[16,2],bf16>
  // CHECK: %[[Y:.*]] = "sparse_gemm.contextual_mlp"(%arg0, %[[U]], %[[D]], %[[A]], %[[B]], %[[G]], %[[PB]]) {activation = "silu", m_max = 8 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0>, parameter = 4.000000e+00 : f64, rule = "top_k"}
  // CHECK-NOT: torch.aten
  // CHECK: return %[[Y]]
  %none = torch.constant.none
  %wg = "sparse_gemm.weight"() {name = "gate.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wu = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %g = torch.aten.linear %x, %wg, %none : !torch.vtensor<[?,?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,?,16],f32>
  %a = torch.aten.silu %g : !torch.vtensor<[?,?,16],f32> -> !torch.vtensor<[?,?,16],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,?,16],f32>
  %h = torch.aten.mul.Tensor %a, %u : !torch.vtensor<[?,?,16],f32>, !torch.vtensor<[?,?,16],f32> -> !torch.vtensor<[?,?,16],f32>
  %y = torch.aten.linear %h, %wd, %none : !torch.vtensor<[?,?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,?,8],f32>
  return %y : !torch.vtensor<[?,?,8],f32>
}

// -----

// The factors in the other order, Gemma's activation, and biases.
// CHECK-LABEL: func.func @gated_the_other_way
func.func @gated_the_other_way(%x: !torch.vtensor<[3,8],bf16>) -> !torch.vtensor<[3,8],bf16> {
  // CHECK: "sparse_gemm.contextual_mlp"{{.*}}activation = "gelu_tanh"{{.*}}operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0>
  %tanh = torch.constant.str "tanh"
  %wg = "sparse_gemm.weight"() {name = "gate.weight"} : () -> !torch.vtensor<[16,8],bf16>
  %bg = "sparse_gemm.weight"() {name = "gate.bias"} : () -> !torch.vtensor<[16],bf16>
  %wu = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],bf16>
  %bu = "sparse_gemm.weight"() {name = "up.bias"} : () -> !torch.vtensor<[16],bf16>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],bf16>
  %bd = "sparse_gemm.weight"() {name = "down.bias"} : () -> !torch.vtensor<[8],bf16>
  %u = torch.aten.linear %x, %wu, %bu : !torch.vtensor<[3,8],bf16>, !torch.vtensor<[16,8],bf16>, !torch.vtensor<[16],bf16> -> !torch.vtensor<[3,16],bf16>
  %g = torch.aten.linear %x, %wg, %bg : !torch.vtensor<[3,8],bf16>, !torch.vtensor<[16,8],bf16>, !torch.vtensor<[16],bf16> -> !torch.vtensor<[3,16],bf16>
  %a = torch.aten.gelu %g, %tanh : !torch.vtensor<[3,16],bf16>, !torch.str -> !torch.vtensor<[3,16],bf16>
  %h = torch.aten.mul.Tensor %u, %a : !torch.vtensor<[3,16],bf16>, !torch.vtensor<[3,16],bf16> -> !torch.vtensor<[3,16],bf16>
  %y = torch.aten.linear %h, %wd, %bd : !torch.vtensor<[3,16],bf16>, !torch.vtensor<[8,16],bf16>, !torch.vtensor<[8],bf16> -> !torch.vtensor<[3,8],bf16>
  return %y : !torch.vtensor<[3,8],bf16>
}

// -----

// OPT: no gate. In int8 the predictor has scales; dropout that is switched off is passed over.
// CHECK-LABEL: func.func @plain
func.func @plain(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-DAG: "sparse_gemm.weight"() {name = "quiet/pred_a"} : () -> !torch.vtensor<[2,8],si8>
  // CHECK-DAG: "sparse_gemm.weight"() {name = "quiet/pred_b_scale"} : () -> !torch.vtensor<[16],f32>
  // CHECK: "sparse_gemm.contextual_mlp"{{.*}}activation = "relu", m_max = 1 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 1, 1>, parameter = 5.000000e-01 : f64, rule = "threshold"
  // CHECK-NOT: torch.aten
  %none = torch.constant.none
  %p = torch.constant.float 1.000000e-01
  %off = torch.constant.bool false
  %wu = "sparse_gemm.weight"() {name = "quiet.weight"} : () -> !torch.vtensor<[16,8],f32>
  %bu = "sparse_gemm.weight"() {name = "quiet.bias"} : () -> !torch.vtensor<[16],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %u = torch.aten.linear %x, %wu, %bu : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16],f32> -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.relu %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %d = torch.aten.dropout %a, %p, %off : !torch.vtensor<[?,16],f32>, !torch.float, !torch.bool -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %d, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// The square of relu; Conv1D's weights, which are stored transposed: down's is read as it is.
// CHECK-LABEL: func.func @squared
func.func @squared(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-DAG: "sparse_gemm.weight"() {name = "up.weight", transposed} : () -> !torch.vtensor<[16,8],f32>
  // CHECK-DAG: "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[16,8],f32>
  // CHECK: "sparse_gemm.contextual_mlp"{{.*}}activation = "relu2"
  // CHECK-NOT: torch.aten
  %none = torch.constant.none
  %two = torch.constant.int 2
  %wu = "sparse_gemm.weight"() {name = "up.weight", transposed} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight", transposed} : () -> !torch.vtensor<[8,16],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.relu %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %s = torch.aten.pow.Tensor_Scalar %a, %two : !torch.vtensor<[?,16],f32>, !torch.int -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %s, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// GPT-2 writes its gelu out.
// CHECK-LABEL: func.func @written_out
func.func @written_out(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK: "sparse_gemm.contextual_mlp"{{.*}}activation = "gelu_tanh"
  // CHECK-NOT: torch.aten
  %none = torch.constant.none
  %one = torch.constant.int 1
  %f1 = torch.constant.float 1.000000e+00
  %f3 = torch.constant.float 3.000000e+00
  %half = torch.constant.float 5.000000e-01
  %cube = torch.constant.float 4.471500e-02
  %root = torch.constant.float 0.79788456080286541
  %wu = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %v = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %0 = torch.aten.mul.Scalar %v, %half : !torch.vtensor<[?,16],f32>, !torch.float -> !torch.vtensor<[?,16],f32>
  %1 = torch.aten.pow.Tensor_Scalar %v, %f3 : !torch.vtensor<[?,16],f32>, !torch.float -> !torch.vtensor<[?,16],f32>
  %2 = torch.aten.mul.Scalar %1, %cube : !torch.vtensor<[?,16],f32>, !torch.float -> !torch.vtensor<[?,16],f32>
  %3 = torch.aten.add.Tensor %v, %2, %one : !torch.vtensor<[?,16],f32>, !torch.vtensor<[?,16],f32>, !torch.int -> !torch.vtensor<[?,16],f32>
  %4 = torch.aten.mul.Scalar %3, %root : !torch.vtensor<[?,16],f32>, !torch.float -> !torch.vtensor<[?,16],f32>
  %5 = torch.aten.tanh %4 : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %6 = torch.aten.add.Scalar %5, %f1, %one : !torch.vtensor<[?,16],f32>, !torch.float, !torch.int -> !torch.vtensor<[?,16],f32>
  %7 = torch.aten.mul.Tensor %0, %6 : !torch.vtensor<[?,16],f32>, !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %7, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// The rule gate has no predictor.
// CHECK-LABEL: func.func @by_gate
func.func @by_gate(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-NOT: pred_
  // CHECK: "sparse_gemm.contextual_mlp"{{.*}}activation = "relu", down_policy = "", m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>, parameter = 2.500000e-01 : f64, rule = "gate", up_policy = "1:cpu"
  %none = torch.constant.none
  %wu = "sparse_gemm.weight"() {name = "free.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.relu %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %a, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}
