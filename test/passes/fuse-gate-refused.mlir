// RUN: sparseflow-opt %s --fuse-gate > %t && sparseflow-opt %s > %t.before && diff %t.before %t

// The output is the input.

// Up is needed beside the product.
func.func @slice_read_again(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>
}

// So is the layer.
func.func @layer_read_again(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,64],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p, %y : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,64],bf16>
}

// So is the activated gate.
func.func @activation_read_again(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p, %a : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>
}

// The layer has an activation already.
func.func @activated(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "relu", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// Nothing is activated.
func.func @plain_product(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %first, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// Both are.
func.func @both(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %c = torch.aten.silu %second : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %c : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// An activation that no layer has.
func.func @tanh(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.tanh %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// Up comes first, in a weight without parts.
func.func @up_first_in_one_weight(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.weight"() {name = "gate_up.weight"} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %second : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %first : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// Up comes first, and the middle is inside a part.
func.func @up_first_in_other_parts(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 16, 48>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %second : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %first : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// A slice of another dimension.
func.func @other_slices(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// Rows of gate and up alternate.
func.func @interleaved(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %2 = torch.constant.int 2
  %even = torch.aten.slice.Tensor %y, %m1, %0, %n, %2 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %odd = torch.aten.slice.Tensor %y, %m1, %1, %n, %2 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %even : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %odd : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// A residual comes before the gate.
func.func @residual(%x: !torch.vtensor<[?,?,64],bf16>, %r: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.merged_weight"() {names = ["gate.weight", "up.weight"], sizes = array<i64: 32, 32>} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w, %r) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 1>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>, !torch.vtensor<[?,?,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %first = torch.aten.slice.Tensor %y, %m1, %0, %half, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %second = torch.aten.slice.Tensor %y, %m1, %half, %n, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],bf16>
  %a = torch.aten.silu %first : !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %a, %second : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}

// Chunks of another dimension.
func.func @another_dimension(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,32],bf16>) {
  %m1 = torch.constant.int -1
  %0 = torch.constant.int 0
  %1 = torch.constant.int 1
  %half = torch.constant.int 32
  %n = torch.constant.int 64
  %w = "sparse_gemm.weight"() {name = "gate_up.weight"} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %two = torch.constant.int 2
  %list = torch.aten.chunk %y, %two, %1 : !torch.vtensor<[?,?,64],bf16>, !torch.int, !torch.int -> !torch.list<vtensor>
  %halves:2 = torch.prim.ListUnpack %list : !torch.list<vtensor> -> !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16>
  %kind = torch.constant.str "tanh"
  %a = torch.aten.gelu %halves#0, %kind : !torch.vtensor<[?,?,32],bf16>, !torch.str -> !torch.vtensor<[?,?,32],bf16>
  %p = torch.aten.mul.Tensor %halves#1, %a : !torch.vtensor<[?,?,32],bf16>, !torch.vtensor<[?,?,32],bf16> -> !torch.vtensor<[?,?,32],bf16>
  return %p : !torch.vtensor<[?,?,32],bf16>
}
