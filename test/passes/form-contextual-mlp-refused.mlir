// RUN: echo '{"up": {"rank": 2, "rule": "top_k", "parameter": 4, "dtype": "f32", "m_max": 8}, "slow": {"dense": "no faster than dense"}}' > %t.json
// RUN: sparseflow-opt %s --split-input-file --form-contextual-mlp="table=%t.json outside-reason='no MLP'" | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file --form-contextual-mlp=table=%t.json | FileCheck %s --check-prefix=FREE

// No predictor, or one that was measured not to pay.
// CHECK-LABEL: func.func @unknown
func.func @unknown(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-NOT: contextual_mlp
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "not contextual: no predictor is trained for the MLP of other"}
  %none = torch.constant.none
  %wu = "sparse_gemm.weight"() {name = "other.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.relu %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %a, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// CHECK-LABEL: func.func @slow
func.func @slow(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-NOT: contextual_mlp
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "not contextual: no faster than dense"}
  // FREE: torch.aten.linear {{.*}}{sparse_gemm.not_contextual = "not contextual: no faster than dense"}
  %none = torch.constant.none
  %wu = "sparse_gemm.weight"() {name = "slow.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.relu %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %a, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// The result has another width than x.
// CHECK-LABEL: func.func @narrow
func.func @narrow(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,6],f32> {
  // CHECK-NOT: contextual_mlp
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "not contextual: its result (6 features) is of another type than its input"}
  %none = torch.constant.none
  %wu = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[6,16],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.relu %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %a, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[6,16],f32>, !torch.none -> !torch.vtensor<[?,6],f32>
  return %y : !torch.vtensor<[?,6],f32>
}

// -----

// The neurons are a result, too.
// CHECK-LABEL: func.func @read_elsewhere
func.func @read_elsewhere(%x: !torch.vtensor<[?,8],f32>) -> (!torch.vtensor<[?,8],f32>, !torch.vtensor<[?,16],f32>) {
  // CHECK-NOT: contextual_mlp
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "not contextual: its neurons are read by something else too"}
  %none = torch.constant.none
  %wu = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.relu %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %a, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y, %a : !torch.vtensor<[?,8],f32>, !torch.vtensor<[?,16],f32>
}

// -----

// A weight that is computed.
// CHECK-LABEL: func.func @computed
func.func @computed(%x: !torch.vtensor<[?,8],f32>, %w: !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-NOT: contextual_mlp
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "not contextual: the weight of one of its layers is computed at run time or merged"}
  %none = torch.constant.none
  %wu = torch.aten.relu %w : !torch.vtensor<[16,8],f32> -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.relu %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %a, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// A layer that may not be rewritten.
// CHECK-LABEL: func.func @kept
func.func @kept(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-NOT: contextual_mlp
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "why not"}
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "not contextual: up stays dense: why not"}
  %none = torch.constant.none
  %wu = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %u = torch.aten.linear %x, %wu, %none {sparse_gemm.reason = "why not"} : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.relu %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %a, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// The gate reads another tensor than up.
// CHECK-LABEL: func.func @two_inputs
func.func @two_inputs(%x: !torch.vtensor<[?,8],f32>, %z: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-NOT: contextual_mlp
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "not contextual: gate and up read different inputs"}
  %none = torch.constant.none
  %wu = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.relu %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %wg = "sparse_gemm.weight"() {name = "gate.weight"} : () -> !torch.vtensor<[16,8],f32>
  %g = torch.aten.linear %z, %wg, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %h = torch.aten.mul.Tensor %a, %g : !torch.vtensor<[?,16],f32>, !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %h, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// An activation that there is no kernel for: it is no MLP, as far as this pass can tell.
// CHECK-LABEL: func.func @sigmoid
func.func @sigmoid(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK-NOT: contextual_mlp
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "no MLP"}
  %none = torch.constant.none
  %wu = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %wd = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[8,16],f32>
  %u = torch.aten.linear %x, %wu, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  %a = torch.aten.sigmoid %u : !torch.vtensor<[?,16],f32> -> !torch.vtensor<[?,16],f32>
  %y = torch.aten.linear %a, %wd, %none : !torch.vtensor<[?,16],f32>, !torch.vtensor<[8,16],f32>, !torch.none -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// RUN: not sparseflow-opt %s --form-contextual-mlp 2>&1 | FileCheck %s --check-prefix=TABLE
// TABLE: has no table
// RUN: echo '{"up": {"rank": 0, "rule": "top_k", "parameter": 4, "dtype": "f32", "m_max": 8}}' > %t.bad
// RUN: not sparseflow-opt %s --split-input-file --form-contextual-mlp=table=%t.bad 2>&1 | FileCheck %s --check-prefix=ENTRY
// ENTRY: predictor table, entry 'up': has an invalid value
// RUN: echo '{"up": 3}' > %t.bad
// RUN: not sparseflow-opt %s --split-input-file --form-contextual-mlp=table=%t.bad 2>&1 | FileCheck %s --check-prefix=KIND
// KIND: predictor table, entry 'up': isn't a predictor: 3
// RUN: echo '{"up": {"rank": 2, "rule": "top_k", "parameter": 4, "dtype": "f32", "m_max": 8, "up_policy": 1}}' > %t.bad
// RUN: not sparseflow-opt %s --split-input-file --form-contextual-mlp=table=%t.bad 2>&1 | FileCheck %s --check-prefix=ENTRY
