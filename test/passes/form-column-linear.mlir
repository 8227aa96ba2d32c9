// RUN: echo '{"q": {"threshold": 0.25, "m_max": 4}, "slow": {"dense": "no faster than dense"}, "cast": {"threshold": 1, "m_max": 1}}' > %t.json
// RUN: sparseflow-opt %s --split-input-file --form-column-linear=table=%t.json | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file --form-column-linear="table=%t.json outside-reason='no threshold'" | FileCheck %s --check-prefix=OUTSIDE
// RUN: not sparseflow-opt %s --form-column-linear 2>&1 | FileCheck %s --check-prefix=NONE
// RUN: echo '{"q": {"threshold": -1, "m_max": 4}}' > %t.bad.json
// RUN: not sparseflow-opt %s --split-input-file --form-column-linear=table=%t.bad.json 2>&1 | FileCheck %s --check-prefix=BAD
// RUN: echo '{"q": {"limit": 1}}' > %t.worse.json
// RUN: not sparseflow-opt %s --split-input-file --form-column-linear=table=%t.worse.json 2>&1 | FileCheck %s --check-prefix=WORSE

// RUN: echo '{"q": {"threshold": 0.25, "m_max": 4, "format": "int8"}}' > %t.int8.json
// RUN: sparseflow-opt %s --split-input-file --form-column-linear=table=%t.int8.json | FileCheck %s --check-prefix=INT8
// RUN: echo '{"q": {"threshold": 0.25, "m_max": 4, "format": "int3"}}' > %t.int3.json
// RUN: not sparseflow-opt %s --split-input-file --form-column-linear=table=%t.int3.json 2>&1 | FileCheck %s --check-prefix=BAD

// NONE: pass 'form-column-linear'{{.*}}has no table
// BAD: threshold table, entry 'q'{{.*}}has an invalid value
// WORSE: threshold table, entry 'q'{{.*}}isn't a threshold

// INT8: "sparse_gemm.column_linear"{{.*}}format = "int8"

// CHECK-LABEL: func.func @with_bias
func.func @with_bias(%x: !torch.vtensor<[?,?,8],f32>) -> !torch.vtensor<[?,?,16],f32> {
  // CHECK-DAG: %[[W:.*]] = "sparse_gemm.weight"() {name = "q.weight"}
  // CHECK-DAG: %[[B:.*]] = "sparse_gemm.weight"() {name = "q.bias"}
  // CHECK: %[[Y:.*]] = "sparse_gemm.column_linear"(%arg0, %[[W]], %[[B]]) {m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 0>, threshold = 2.500000e-01 : f64}
  // CHECK: return %[[Y]]
  %w = "sparse_gemm.weight"() {name = "q.weight"} : () -> !torch.vtensor<[16,8],f32>
  %b = "sparse_gemm.weight"() {name = "q.bias"} : () -> !torch.vtensor<[16],f32>
  %y = torch.aten.linear %x, %w, %b : !torch.vtensor<[?,?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16],f32> -> !torch.vtensor<[?,?,16],f32>
  return %y : !torch.vtensor<[?,?,16],f32>
}

// -----

// CHECK-LABEL: func.func @slow
func.func @slow(%x: !torch.vtensor<[?,8],bf16>) -> !torch.vtensor<[?,16],bf16> {
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "every input is read: no faster than dense"}
  %none = torch.constant.none
  %w = "sparse_gemm.weight"() {name = "slow.weight"} : () -> !torch.vtensor<[16,8],bf16>
  %y = torch.aten.linear %x, %w, %none : !torch.vtensor<[?,8],bf16>, !torch.vtensor<[16,8],bf16>, !torch.none -> !torch.vtensor<[?,16],bf16>
  return %y : !torch.vtensor<[?,16],bf16>
}

// -----

// CHECK-LABEL: func.func @unknown
// OUTSIDE-LABEL: func.func @unknown
func.func @unknown(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,16],f32> {
  // CHECK: torch.aten.linear
  // CHECK-NOT: sparse_gemm.reason
  // OUTSIDE: torch.aten.linear {{.*}}{sparse_gemm.reason = "no threshold"}
  %none = torch.constant.none
  %w = "sparse_gemm.weight"() {name = "other.weight"} : () -> !torch.vtensor<[16,8],f32>
  %y = torch.aten.linear %x, %w, %none : !torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.none -> !torch.vtensor<[?,16],f32>
  return %y : !torch.vtensor<[?,16],f32>
}

// -----

// A dtype that no kernel multiplies.
// CHECK-LABEL: func.func @wide
func.func @wide(%x: !torch.vtensor<[?,8],f64>) -> !torch.vtensor<[?,16],f64> {
  // CHECK: torch.aten.linear {{.*}}{sparse_gemm.reason = "every input is read: its weight is f64; the sparse kernels multiply {{.*}}"}
  %none = torch.constant.none
  %w = "sparse_gemm.weight"() {name = "q.weight"} : () -> !torch.vtensor<[16,8],f64>
  %y = torch.aten.linear %x, %w, %none : !torch.vtensor<[?,8],f64>, !torch.vtensor<[16,8],f64>, !torch.none -> !torch.vtensor<[?,16],f64>
  return %y : !torch.vtensor<[?,16],f64>
}
