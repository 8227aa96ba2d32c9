// RUN: sparseflow-opt %s --canonicalize-linear > %t && sparseflow-opt %s > %t.before && diff %t.before %t

// What is no x W^T + bias over a weight by reference stays as it is: the output is the input.

func.func @weight_computed_at_run_time(%x: !torch.vtensor<[4,64],f32>, %v: !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[4,32],f32> {
  %t = torch.aten.t %v : !torch.vtensor<[32,64],f32> -> !torch.vtensor<[64,32],f32>
  %y = torch.aten.mm %x, %t : !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[4,32],f32>
  return %y : !torch.vtensor<[4,32],f32>
}

func.func @weight_on_the_left(%x: !torch.vtensor<[64,4],f32>) -> !torch.vtensor<[32,4],f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = torch.aten.mm %w, %x : !torch.vtensor<[32,64],f32>, !torch.vtensor<[64,4],f32> -> !torch.vtensor<[32,4],f32>
  return %y : !torch.vtensor<[32,4],f32>
}

func.func @weight_of_rank_3(%x: !torch.vtensor<[2,4,64],f32>) -> !torch.vtensor<[2,4,32],f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[2,64,32],f32>
  %y = torch.aten.matmul %x, %w : !torch.vtensor<[2,4,64],f32>, !torch.vtensor<[2,64,32],f32> -> !torch.vtensor<[2,4,32],f32>
  return %y : !torch.vtensor<[2,4,32],f32>
}

func.func @factors(%x: !torch.vtensor<[4,64],f32>, %s: !torch.int) -> (!torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>) {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32],f32>
  %one = torch.constant.int 1
  %two = torch.constant.int 2
  %half = torch.constant.float 5.000000e-01
  %0 = torch.aten.addmm %b, %x, %w, %two, %one : !torch.vtensor<[32],f32>, !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32>, !torch.int, !torch.int -> !torch.vtensor<[4,32],f32>
  %1 = torch.aten.addmm %b, %x, %w, %one, %half : !torch.vtensor<[32],f32>, !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32>, !torch.int, !torch.float -> !torch.vtensor<[4,32],f32>
  %2 = torch.aten.addmm %b, %x, %w, %one, %s : !torch.vtensor<[32],f32>, !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32>, !torch.int, !torch.int -> !torch.vtensor<[4,32],f32>
  return %0, %1, %2 : !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>
}

func.func @bias_that_broadcasts(%x: !torch.vtensor<[4,64],f32>, %m: !torch.vtensor<[4,32],f32>, %n: !torch.vtensor<[1],f32>) -> (!torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>) {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],f32>
  %one = torch.constant.int 1
  %0 = torch.aten.addmm %m, %x, %w, %one, %one : !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32>, !torch.int, !torch.int -> !torch.vtensor<[4,32],f32>
  %1 = torch.aten.addmm %n, %x, %w, %one, %one : !torch.vtensor<[1],f32>, !torch.vtensor<[4,64],f32>, !torch.vtensor<[64,32],f32>, !torch.int, !torch.int -> !torch.vtensor<[4,32],f32>
  return %0, %1 : !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>
}

// A layer that was decided about stays as it was then.
func.func @reasoned(%x: !torch.vtensor<[4,64],f32>) -> !torch.vtensor<[4,32],f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32],f32>
  %none = torch.constant.none
  %one = torch.constant.int 1
  %0 = torch.aten.linear %x, %w, %none {sparse_gemm.reason = "skipped"} : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  %1 = torch.aten.add.Tensor %0, %b, %one : !torch.vtensor<[4,32],f32>, !torch.vtensor<[32],f32>, !torch.int -> !torch.vtensor<[4,32],f32>
  return %1 : !torch.vtensor<[4,32],f32>
}

func.func @another_dtype(%x: !torch.vtensor<[4,64],f16>) -> !torch.vtensor<[4,32],f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],f32>
  %y = torch.aten.mm %x, %w : !torch.vtensor<[4,64],f16>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<[4,32],f32>
  return %y : !torch.vtensor<[4,32],f32>
}

func.func @unknown_rank(%x: !torch.vtensor<*,f32>) -> !torch.vtensor<*,f32> {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[64,32],f32>
  %y = torch.aten.matmul %x, %w : !torch.vtensor<*,f32>, !torch.vtensor<[64,32],f32> -> !torch.vtensor<*,f32>
  return %y : !torch.vtensor<*,f32>
}

// Neither a second reader of the sum's first half, a scaled addition, a computed summand nor a second bias is a bias.
func.func @additions_that_are_no_bias(%x: !torch.vtensor<[4,64],f32>, %c: !torch.vtensor<[32],f32>) -> (!torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>) {
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %b = "sparse_gemm.weight"() {name = "b"} : () -> !torch.vtensor<[32],f32>
  %none = torch.constant.none
  %one = torch.constant.int 1
  %two = torch.constant.int 2
  %0 = torch.aten.linear %x, %w, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  %1 = torch.aten.add.Tensor %0, %b, %one : !torch.vtensor<[4,32],f32>, !torch.vtensor<[32],f32>, !torch.int -> !torch.vtensor<[4,32],f32>
  %2 = torch.aten.linear %x, %w, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  %3 = torch.aten.add.Tensor %2, %b, %two : !torch.vtensor<[4,32],f32>, !torch.vtensor<[32],f32>, !torch.int -> !torch.vtensor<[4,32],f32>
  %4 = torch.aten.linear %x, %w, %none : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  %5 = torch.aten.add.Tensor %4, %c, %one : !torch.vtensor<[4,32],f32>, !torch.vtensor<[32],f32>, !torch.int -> !torch.vtensor<[4,32],f32>
  %6 = torch.aten.linear %x, %w, %b : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.vtensor<[32],f32> -> !torch.vtensor<[4,32],f32>
  %7 = torch.aten.add.Tensor %6, %b, %one : !torch.vtensor<[4,32],f32>, !torch.vtensor<[32],f32>, !torch.int -> !torch.vtensor<[4,32],f32>
  return %0, %1, %3, %5, %7 : !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>, !torch.vtensor<[4,32],f32>
}
