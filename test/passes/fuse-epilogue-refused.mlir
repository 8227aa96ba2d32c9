// RUN: sparseflow-opt %s --fuse-epilogue > %t && sparseflow-opt %s > %t.before && diff %t.before %t

// The output is the input.

// The sum before the activation is needed, too.
func.func @two_readers(%x: !torch.vtensor<[3,64],f32>) {
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.relu %y : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.add.Tensor %y, %0, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  return
}

// The layer would be added to itself.
func.func @twice(%x: !torch.vtensor<[3,64],f32>) {
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.add.Tensor %y, %y, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  return
}

// What a caller reads counts as well.
func.func @returned(%x: !torch.vtensor<[3,64],f32>) -> (!torch.vtensor<[3,32],f32>) {
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.relu %y : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  return %y : !torch.vtensor<[3,32],f32>
}

// Factors other than 1.
func.func @alpha(%x: !torch.vtensor<[3,64],f32>, %r: !torch.vtensor<[3,32],f32>) {
  %two = torch.constant.int 2
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.add.Tensor %y, %r, %two : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  return
}

// A factor that isn't known.
func.func @computed_alpha(%x: !torch.vtensor<[3,64],f32>, %r: !torch.vtensor<[3,32],f32>, %alpha: !torch.int) {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.add.Tensor %y, %r, %alpha : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  return
}

// One bias or activation for all columns, or for each row, is neither a bias nor a residual.
func.func @broadcasts(%x: !torch.vtensor<[3,64],f32>, %b1: !torch.vtensor<[1],f32>, %r1: !torch.vtensor<[3,1],f32>, %row: !torch.vtensor<[1,32],f32>) {
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.add.Tensor %y, %b1, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[1],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  %v = "sparse_gemm.weight"() {name = "v"} : () -> !torch.vtensor<[32,64],f32>
  %z = "sparse_gemm.linear"(%x, %v) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.add.Tensor %z, %r1, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,1],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  %u = "sparse_gemm.weight"() {name = "u"} : () -> !torch.vtensor<[32,64],f32>
  %t = "sparse_gemm.linear"(%x, %u) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %2 = torch.aten.add.Tensor %row, %t, %one : !torch.vtensor<[1,32],f32>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  return
}

// The layer's one row is added to each of the residual.
func.func @stretched_layer(%x: !torch.vtensor<[1,64],f32>, %r: !torch.vtensor<[3,32],f32>) {
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[1,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[1,32],f32>
  %0 = torch.aten.add.Tensor %y, %r, %one : !torch.vtensor<[1,32],f32>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  return
}

// Equal types don't prove equal sizes: one of the two may broadcast.
func.func @dynamic(%x: !torch.vtensor<[?,?,64],f32>, %r: !torch.vtensor<[?,?,32],f32>) {
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[?,?,32],f32>
  %0 = torch.aten.add.Tensor %y, %r, %one : !torch.vtensor<[?,?,32],f32>, !torch.vtensor<[?,?,32],f32>, !torch.int -> !torch.vtensor<[?,?,32],f32>
  return
}

// Both come from x, but its two sizes may differ.
func.func @exchanged(%x: !torch.vtensor<[?,?,32],f32>) {
  %one = torch.constant.int 1
  %zero = torch.constant.int 0
  %w = "sparse_gemm.weight"() {name = "w9"} : () -> !torch.vtensor<[32,32],f32>
  %t = torch.aten.transpose.int %x, %zero, %one : !torch.vtensor<[?,?,32],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,32],f32>, !torch.vtensor<[32,32],f32>) -> !torch.vtensor<[?,?,32],f32>
  %0 = torch.aten.add.Tensor %y, %t, %one : !torch.vtensor<[?,?,32],f32>, !torch.vtensor<[?,?,32],f32>, !torch.int -> !torch.vtensor<[?,?,32],f32>
  return
}

// A slice to an unknown end may have one row.
func.func @sliced(%x: !torch.vtensor<[?,?,64],f32>, %n: !torch.int, %r: !torch.vtensor<[?,?,32],f32>) {
  %one = torch.constant.int 1
  %zero = torch.constant.int 0
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[?,?,32],f32>
  %part = torch.aten.slice.Tensor %r, %one, %zero, %n, %one : !torch.vtensor<[?,?,32],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[?,?,32],f32>
  %0 = torch.aten.add.Tensor %y, %part, %one : !torch.vtensor<[?,?,32],f32>, !torch.vtensor<[?,?,32],f32>, !torch.int -> !torch.vtensor<[?,?,32],f32>
  return
}

// The result is of another type than the layer's.
func.func @promoted(%x: !torch.vtensor<[3,64],bf16>, %r: !torch.vtensor<[3,32],f32>) {
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],bf16>, !torch.vtensor<[32,64],bf16>) -> !torch.vtensor<[3,32],bf16>
  %0 = torch.aten.add.Tensor %y, %r, %one : !torch.vtensor<[3,32],bf16>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  return
}

// The bias comes before the activation, and once.
func.func @late_bias(%x: !torch.vtensor<[3,64],f32>, %c: !torch.vtensor<[32],f32>) {
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "relu", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.add.Tensor %y, %c, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  %v = "sparse_gemm.weight"() {name = "v"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32],f32>
  %z = "sparse_gemm.linear"(%x, %v, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.vtensor<[32],f32>) -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.add.Tensor %z, %c, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  return
}

// One activation, and it comes before the residual.
func.func @late_activation(%x: !torch.vtensor<[3,64],f32>, %r: !torch.vtensor<[3,32],f32>) {
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "relu", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.silu %y : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  %v = "sparse_gemm.weight"() {name = "v"} : () -> !torch.vtensor<[32,64],f32>
  %z = "sparse_gemm.linear"(%x, %v, %r) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 1>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.vtensor<[3,32],f32>) -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.relu %z : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  %2 = torch.aten.add.Tensor %1, %r, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  return
}

// Activations that the layer doesn't have.
func.func @other_activations(%x: !torch.vtensor<[3,64],f32>, %how: !torch.str) {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.tanh %y : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  %v = "sparse_gemm.weight"() {name = "v"} : () -> !torch.vtensor<[32,64],f32>
  %z = "sparse_gemm.linear"(%x, %v) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.gelu %z, %how : !torch.vtensor<[3,32],f32>, !torch.str -> !torch.vtensor<[3,32],f32>
  return
}

// Dropout that works, or may.
func.func @dropout(%x: !torch.vtensor<[3,64],f32>, %r: !torch.vtensor<[3,32],f32>, %maybe: !torch.bool) {
  %on = torch.constant.bool true
  %p = torch.constant.float 1.000000e-01
  %one = torch.constant.int 1
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.dropout %y, %p, %on : !torch.vtensor<[3,32],f32>, !torch.float, !torch.bool -> !torch.vtensor<[3,32],f32>
  %1 = torch.aten.add.Tensor %0, %r, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  %v = "sparse_gemm.weight"() {name = "v"} : () -> !torch.vtensor<[32,64],f32>
  %z = "sparse_gemm.linear"(%x, %v) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %2 = torch.aten.dropout %z, %p, %maybe : !torch.vtensor<[3,32],f32>, !torch.float, !torch.bool -> !torch.vtensor<[3,32],f32>
  %3 = torch.aten.relu %2 : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  return
}

// Dropout and views that nothing follows stay where they are.
func.func @nothing_behind(%x: !torch.vtensor<[3,64],f32>) {
  %off = torch.constant.bool false
  %p = torch.constant.float 1.000000e-01
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.dropout %y, %p, %off : !torch.vtensor<[3,32],f32>, !torch.float, !torch.bool -> !torch.vtensor<[3,32],f32>
  return
}

// A view that regroups rows: the activation's result has another shape.
func.func @regrouped(%x: !torch.vtensor<[3,4,64],f32>) {
  %m1 = torch.constant.int -1
  %n = torch.constant.int 32
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,4,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,4,32],f32>
  %list = torch.prim.ListConstruct %m1, %n : (!torch.int, !torch.int) -> !torch.list<int>
  %flat = torch.aten.view %y, %list : !torch.vtensor<[3,4,32],f32>, !torch.list<int> -> !torch.vtensor<[12,32],f32>
  %0 = torch.aten.relu %flat : !torch.vtensor<[12,32],f32> -> !torch.vtensor<[12,32],f32>
  return
}

// A part of a merged layer.
func.func @part(%x: !torch.vtensor<[3,64],f32>) {
  %one = torch.constant.int 1
  %zero = torch.constant.int 0
  %n = torch.constant.int 16
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %part = torch.aten.slice.Tensor %y, %one, %zero, %n, %one : !torch.vtensor<[3,32],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[3,16],f32>
  %0 = torch.aten.silu %part : !torch.vtensor<[3,16],f32> -> !torch.vtensor<[3,16],f32>
  return
}

// In a loop or a branch the layer would run another number of times.
func.func @another_block(%x: !torch.vtensor<[3,64],f32>, %c: !torch.bool) {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  torch.prim.If %c -> () {
    %0 = torch.aten.relu %y : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
    torch.prim.If.yield
  } else {
    torch.prim.If.yield
  }
  return
}

// Dense layers are left to whoever runs them.
func.func @dense(%x: !torch.vtensor<[3,64],f32>) {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %none = torch.constant.none
  %y = torch.aten.linear %x, %w, %none : !torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[3,32],f32>
  %0 = torch.aten.relu %y : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  return
}
