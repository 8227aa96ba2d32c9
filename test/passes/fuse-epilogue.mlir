// RUN: sparseflow-opt %s --split-input-file --fuse-epilogue | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file --fuse-epilogue --fuse-epilogue | FileCheck %s

// Bias, activation and residual at once, the residual made after the layer; policy and pattern stay, dropout that is off goes.
// CHECK-LABEL: func.func @all
func.func @all(%x: !torch.vtensor<[?,?,64],bf16>) -> (!torch.vtensor<[?,?,64],bf16>) {
  // CHECK-NOT: sparse_gemm.linear
  // CHECK: %[[B:.*]] = torch.aten.neg
  // CHECK: %[[R:.*]] = torch.aten.silu %arg0
  // CHECK: %[[Y:.*]] = "sparse_gemm.linear"(%arg0, %{{.*}}, %[[B]], %[[R]]) {epilogue = "gelu_tanh", format = "2:4", operandSegmentSizes = array<i32: 1, 1, 1, 1>, policy = "1:cpu"} : {{.*}} -> !torch.vtensor<[?,?,64],bf16>
  // CHECK-NEXT: return %[[Y]]
  %one = torch.constant.int 1
  %off = torch.constant.bool false
  %p = torch.constant.float 1.000000e-01
  %tanh = torch.constant.str "tanh"
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,64],bf16>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[64],bf16>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "1:cpu", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,?,64],bf16>
  %nb = torch.aten.neg %b : !torch.vtensor<[64],bf16> -> !torch.vtensor<[64],bf16>
  %biased = torch.aten.add.Tensor %nb, %y, %one : !torch.vtensor<[64],bf16>, !torch.vtensor<[?,?,64],bf16>, !torch.int -> !torch.vtensor<[?,?,64],bf16>
  %act = torch.aten.gelu %biased, %tanh : !torch.vtensor<[?,?,64],bf16>, !torch.str -> !torch.vtensor<[?,?,64],bf16>
  %dropped = torch.aten.dropout %act, %p, %off : !torch.vtensor<[?,?,64],bf16>, !torch.float, !torch.bool -> !torch.vtensor<[?,?,64],bf16>
  %r = torch.aten.silu %x : !torch.vtensor<[?,?,64],bf16> -> !torch.vtensor<[?,?,64],bf16>
  %sum = torch.aten.add.Tensor %r, %dropped, %one : !torch.vtensor<[?,?,64],bf16>, !torch.vtensor<[?,?,64],bf16>, !torch.int -> !torch.vtensor<[?,?,64],bf16>
  return %sum : !torch.vtensor<[?,?,64],bf16>
}

// -----

// Each activation.
// CHECK-LABEL: func.func @activations
func.func @activations(%x: !torch.vtensor<[3,64],f32>) -> (!torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>) {
  // CHECK: %[[RELU:.*]] = "sparse_gemm.linear"(%arg0, %{{.*}}) {epilogue = "relu"
  // CHECK: %[[GELU:.*]] = "sparse_gemm.linear"(%arg0, %{{.*}}) {epilogue = "gelu",
  // CHECK: %[[SILU:.*]] = "sparse_gemm.linear"(%arg0, %{{.*}}) {epilogue = "silu"
  // CHECK-NOT: torch.aten
  // CHECK: return %[[RELU]], %[[GELU]], %[[SILU]]
  %erf = torch.constant.str "none"
  %a = "sparse_gemm.weight"() {name = "a"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32,64],f32>
  %c = "sparse_gemm.weight"() {name = "c"} : () -> !torch.vtensor<[32,64],f32>
  %ya = "sparse_gemm.linear"(%x, %a) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %ra = torch.aten.relu %ya : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  %yb = "sparse_gemm.linear"(%x, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %rb = torch.aten.gelu %yb, %erf : !torch.vtensor<[3,32],f32>, !torch.str -> !torch.vtensor<[3,32],f32>
  %yc = "sparse_gemm.linear"(%x, %c) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %rc = torch.aten.silu %yc : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  return %ra, %rb, %rc : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>
}

// -----

// A layer that has something already takes over what comes after that.
// CHECK-LABEL: func.func @more
func.func @more(%x: !torch.vtensor<[3,64],f32>, %r: !torch.vtensor<[3,32],f32>) -> (!torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>) {
  // CHECK: %[[A:.*]] = "sparse_gemm.linear"(%arg0, %{{.*}}, %{{.*}}) {epilogue = "silu", format = "2:4", operandSegmentSizes = array<i32: 1, 1, 1, 0>
  // CHECK: %[[B:.*]] = "sparse_gemm.linear"(%arg0, %{{.*}}, %arg1) {epilogue = "relu", format = "2:4", operandSegmentSizes = array<i32: 1, 1, 0, 1>
  // CHECK: return %[[A]], %[[B]]
  %one = torch.constant.int 1
  %a = "sparse_gemm.weight"() {name = "a"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32,64],f32>
  %bias = "sparse_gemm.weight"() {name = "bias"} : () -> !torch.vtensor<[32],f32>
  %ya = "sparse_gemm.linear"(%x, %a, %bias) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>, !torch.vtensor<[32],f32>) -> !torch.vtensor<[3,32],f32>
  %ra = torch.aten.silu %ya : !torch.vtensor<[3,32],f32> -> !torch.vtensor<[3,32],f32>
  %yb = "sparse_gemm.linear"(%x, %b) {format = "2:4", epilogue = "relu", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[3,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[3,32],f32>
  %rb = torch.aten.add.Tensor %yb, %r, %one : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>, !torch.int -> !torch.vtensor<[3,32],f32>
  return %ra, %rb : !torch.vtensor<[3,32],f32>, !torch.vtensor<[3,32],f32>
}

// -----

// A sum of two layers: the later one reads the earlier, and a view of the same shape is no obstacle.
// CHECK-LABEL: func.func @two_layers
func.func @two_layers(%x: !torch.vtensor<[?,?,64],f32>) -> (!torch.vtensor<[?,?,32],f32>) {
  // CHECK: %[[A:.*]] = "sparse_gemm.linear"(%arg0, %{{.*}}) {epilogue = "none"
  // CHECK: %[[B:.*]] = "sparse_gemm.linear"(%arg0, %{{.*}}, %[[A]]) {epilogue = "none"
  // CHECK-NEXT: return %[[B]]
  %one = torch.constant.int 1
  %zero = torch.constant.int 0
  %n = torch.constant.int 32
  %s0 = torch.aten.size.int %x, %zero : !torch.vtensor<[?,?,64],f32>, !torch.int -> !torch.int
  %s1 = torch.aten.size.int %x, %one : !torch.vtensor<[?,?,64],f32>, !torch.int -> !torch.int
  %list = torch.prim.ListConstruct %s0, %s1, %n : (!torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %a = "sparse_gemm.weight"() {name = "a"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32,64],f32>
  %ya = "sparse_gemm.linear"(%x, %a) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[?,?,32],f32>
  %yb = "sparse_gemm.linear"(%x, %b) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[?,?,32],f32>
  %view = torch.aten.view %yb, %list : !torch.vtensor<[?,?,32],f32>, !torch.list<int> -> !torch.vtensor<[?,?,32],f32>
  %sum = torch.aten.add.Tensor %ya, %view, %one : !torch.vtensor<[?,?,32],f32>, !torch.vtensor<[?,?,32],f32>, !torch.int -> !torch.vtensor<[?,?,32],f32>
  return %sum : !torch.vtensor<[?,?,32],f32>
}

// -----

// A transformer's stream: sizes are followed through embedding, positions, norm, merged slices and attention's views.
// CHECK-LABEL: func.func @stream
func.func @stream(%ids: !torch.vtensor<[?,?],si64>, %table: !torch.vtensor<[96,64],f32>, %pos: !torch.vtensor<[1,128,64],f32>) -> (!torch.vtensor<[?,?,64],f32>) {
  // CHECK: %[[E:.*]] = torch.aten.add.Tensor
  // CHECK: %[[H:.*]] = "sparse_gemm.linear"({{.*}}, %[[E]]) {epilogue = "none"
  // CHECK: %[[Y:.*]] = "sparse_gemm.linear"({{.*}}, %[[H]]) {epilogue = "none"
  // CHECK: return %[[Y]]
  %one = torch.constant.int 1
  %zero = torch.constant.int 0
  %m1 = torch.constant.int -1
  %two = torch.constant.int 2
  %false = torch.constant.bool false
  %true = torch.constant.bool true
  %none = torch.constant.none
  %k = torch.constant.int 64
  %s0 = torch.aten.size.int %ids, %zero : !torch.vtensor<[?,?],si64>, !torch.int -> !torch.int
  %s1 = torch.aten.size.int %ids, %one : !torch.vtensor<[?,?],si64>, !torch.int -> !torch.int
  %flatlist = torch.prim.ListConstruct %m1, %s1 : (!torch.int, !torch.int) -> !torch.list<int>
  %same = torch.aten.view %ids, %flatlist : !torch.vtensor<[?,?],si64>, !torch.list<int> -> !torch.vtensor<[?,?],si64>
  %words = torch.aten.embedding %table, %same, %m1, %false, %false : !torch.vtensor<[96,64],f32>, !torch.vtensor<[?,?],si64>, !torch.int, !torch.bool, !torch.bool -> !torch.vtensor<[?,?,64],f32>
  %places = torch.aten.slice.Tensor %pos, %one, %zero, %s1, %one : !torch.vtensor<[1,128,64],f32>, !torch.int, !torch.int, !torch.int, !torch.int -> !torch.vtensor<[1,?,64],f32>
  %e = torch.aten.add.Tensor %words, %places, %one : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[1,?,64],f32>, !torch.int -> !torch.vtensor<[?,?,64],f32>
  %last = torch.prim.ListConstruct %m1 : (!torch.int) -> !torch.list<int>
  %mean = torch.aten.mean.dim %e, %last, %true, %none : !torch.vtensor<[?,?,64],f32>, !torch.list<int>, !torch.bool, !torch.none -> !torch.vtensor<[?,?,1],f32>
  %normed = torch.aten.mul.Tensor %e, %mean : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[?,?,1],f32> -> !torch.vtensor<[?,?,64],f32>
  %heads = torch.prim.ListConstruct %s0, %s1, %m1, %two : (!torch.int, !torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %split = torch.aten.view %normed, %heads : !torch.vtensor<[?,?,64],f32>, !torch.list<int> -> !torch.vtensor<[?,?,32,2],f32>
  %turned = torch.aten.transpose.int %split, %one, %two : !torch.vtensor<[?,?,32,2],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,32,?,2],f32>
  %back = torch.aten.transpose.int %turned, %two, %one : !torch.vtensor<[?,32,?,2],f32>, !torch.int, !torch.int -> !torch.vtensor<[?,?,32,2],f32>
  %rows = torch.prim.ListConstruct %s0, %s1, %k : (!torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %joined = torch.aten.reshape %back, %rows : !torch.vtensor<[?,?,32,2],f32>, !torch.list<int> -> !torch.vtensor<[?,?,64],f32>
  %o = "sparse_gemm.weight"() {name = "o"} : () -> !torch.vtensor<[64,64],f32>
  %yo = "sparse_gemm.linear"(%joined, %o) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],f32>, !torch.vtensor<[64,64],f32>) -> !torch.vtensor<[?,?,64],f32>
  %h = torch.aten.add.Tensor %e, %yo, %one : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[?,?,64],f32>, !torch.int -> !torch.vtensor<[?,?,64],f32>
  %d = "sparse_gemm.weight"() {name = "d"} : () -> !torch.vtensor<[64,64],f32>
  %hr = torch.aten.tanh %h : !torch.vtensor<[?,?,64],f32> -> !torch.vtensor<[?,?,64],f32>
  %yd = "sparse_gemm.linear"(%hr, %d) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,?,64],f32>, !torch.vtensor<[64,64],f32>) -> !torch.vtensor<[?,?,64],f32>
  %sum = torch.aten.add.Tensor %yd, %h, %one : !torch.vtensor<[?,?,64],f32>, !torch.vtensor<[?,?,64],f32>, !torch.int -> !torch.vtensor<[?,?,64],f32>
  return %sum : !torch.vtensor<[?,?,64],f32>
}

// -----

// A layer that leaves out inputs keeps its threshold and rows.
// CHECK-LABEL: func.func @columns
func.func @columns(%x: !torch.vtensor<[?,64],bf16>) -> (!torch.vtensor<[?,64],bf16>) {
  // CHECK: "sparse_gemm.column_linear"(%arg0, %{{.*}}, %arg0) {epilogue = "gelu_tanh", m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 1>, threshold = 2.500000e-01 : f64}
  // CHECK-NEXT: return
  %one = torch.constant.int 1
  %tanh = torch.constant.str "tanh"
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,64],bf16>
  %y = "sparse_gemm.column_linear"(%x, %w) {threshold = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[?,64],bf16>, !torch.vtensor<[64,64],bf16>) -> !torch.vtensor<[?,64],bf16>
  %act = torch.aten.gelu %y, %tanh : !torch.vtensor<[?,64],bf16>, !torch.str -> !torch.vtensor<[?,64],bf16>
  %sum = torch.aten.add.Tensor %x, %act, %one : !torch.vtensor<[?,64],bf16>, !torch.vtensor<[?,64],bf16>, !torch.int -> !torch.vtensor<[?,64],bf16>
  return %sum : !torch.vtensor<[?,64],bf16>
}
