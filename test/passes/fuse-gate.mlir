// RUN: sparseflow-opt %s --split-input-file --fuse-gate | FileCheck %s

// As Llama has it, merged and with biases: one layer is left.
// CHECK-LABEL: func.func @silu
func.func @silu(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  // CHECK: %[[W:.*]] = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"]
  // CHECK: %[[B:.*]] = "sparse_gemm.merged_weight"() {names = ["gate.bias", "up.bias"]
  // CHECK: %[[Y:.*]] = "sparse_gemm.linear"(%arg0, %[[W]], %[[B]]) {epilogue = "silu_gated", format = "2:4", operandSegmentSizes = array<i32: 1, 1, 1, 0>, policy = "1:cpu"} : {{.*}} -> !torch.vtensor<[?,?,32],bf16>
  // CHECK-NOT: torch.aten
  // CHECK: return %[[Y]]
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %b = "sparse_gemm.merged_weight"() {names = ["gate.bias", "up.bias"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64],bf16>
  %y = "sparse_gemm.linear"(%x, %w, %b) {format = "2:4", epilogue = "none", policy = "1:cpu", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>, !torch.vtensor<[64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// -----

// The rows of up come first: the parts of weight and bias change places.
// CHECK-LABEL: func.func @other_order
func.func @other_order(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  // CHECK: %[[W:.*]] = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>}
  // CHECK: %[[B:.*]] = "sparse_gemm.merged_weight"() {names = ["gate.bias", "up.bias"], sizes = array<i64: 32, 32>}
  // CHECK: "sparse_gemm.linear"(%arg0, %[[W]], %[[B]]) {epilogue = "relu_gated"
  // CHECK-NOT: torch.aten
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["up.weight", "gate.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %b = "sparse_gemm.merged_weight"() {names = ["up.bias", "gate.bias"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64],bf16>
  %y = "sparse_gemm.linear"(%x, %w, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>, !torch.vtensor<[64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.relu %second : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %first, %a : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// -----

// A weight that holds both from the start, and the factors the other way round.
// CHECK-LABEL: func.func @one_weight
func.func @one_weight(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  // CHECK: "sparse_gemm.linear"({{.*}}) {epilogue = "gelu_tanh_gated"
  // CHECK-NOT: torch.aten
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.weight"() {name = "gate_up.weight"} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %kind = torch.constant.str "tanh"
  %a = torch.aten.gelu %first, %kind : !torch.vtensor<[?,?,32],bf16>, !torch.str -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %second, %a : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// -----

// Cut by chunk, as Phi-3 has it.
// CHECK-LABEL: func.func @chunks
func.func @chunks(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  // CHECK: "sparse_gemm.linear"({{.*}}) {epilogue = "gelu_tanh_gated"
  // CHECK-NOT: torch.{{aten|prim}}
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.weight"() {name = "gate_up.weight"} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %two = torch.constant.int 2
  %list = torch.aten.chunk %y, %two, %m1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int -> !torch.list<vtensor>
  %halves:2 = torch.prim.ListUnpack %list : !torch.list<vtensor> -> !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>
  %kind = torch.constant.str "tanh"
  %a = torch.aten.gelu %halves#0, %kind : !torch.vtensor<[?,?,32],bf16>, !torch.str -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %halves#1, %a : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// -----

// A layer in fp8 keeps its format.
// CHECK-LABEL: func.func @fp8
func.func @fp8(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  // CHECK: "sparse_gemm.linear"({{.*}}) {epilogue = "silu_gated", format = "2:4-fp8"
  // CHECK-NOT: torch.aten
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4-fp8", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// -----

// What the report says of a layer goes with it.
// CHECK-LABEL: func.func @not_in_fp8
func.func @not_in_fp8(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  // CHECK: epilogue = "silu_gated"{{.*}}sparse_gemm.format_refused = "K = 63"
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", sparse_gemm.format_refused = "K = 63", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// -----

// A layer that leaves out inputs keeps its threshold, rows and format.
// CHECK-LABEL: func.func @columns
func.func @columns(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  // CHECK: %[[W:.*]] = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"]
  // CHECK: %[[Y:.*]] = "sparse_gemm.column_linear"(%arg0, %[[W]]) {epilogue = "silu_gated", format = "int8", m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>, threshold = 2.500000e-01 : f64} : {{.*}} -> !torch.vtensor<[?,?,32],bf16>
  // CHECK-NOT: torch.aten
  // CHECK: return %[[Y]]
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.column_linear"(%x, %w) {format = "int8", threshold = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}
