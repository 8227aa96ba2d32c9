// RUN: sparseflow-opt %s --split-input-file --lower-sparse-gemm | FileCheck %s
// RUN: sparseflow-opt %s --split-input-file --lower-sparse-gemm --lower-sparse-gemm | FileCheck %s

// CHECK-LABEL: func.func @everything
func.func @everything(%x: !torch.vtensor<[?,?,62],bf16>, %r: !torch.vtensor<[?,?,32],bf16>) -> !torch.vtensor<[?,?,32],bf16> {
  // CHECK-NOT: "sparse_gemm.merged_weight"
  // CHECK: %[[B:.*]] = "sparse_gemm.weight"() {name = "bias"}
  // K = 62 is padded to 64.
  // CHECK: %[[PT:.*]] = "sparse_gemm.packed_weight"() {format = "2:4", names = ["a", "b"], sizes = array<i64: 20, 12>, transposed = array<i1: false, true>, weight = !torch.vtensor<[32,62],bf16>} : () -> !torch.tuple<vtensor<[32,32],bf16>, vtensor<[32,8],ui8>>
  // CHECK: %[[P:.*]]:2 = torch.prim.TupleUnpack %[[PT]]
  // CHECK: %[[K:.*]] = torch.constant.int 62
  // CHECK: %[[E:.*]] = torch.constant.str "gelu"
  // CHECK: %[[M0:.*]] = torch.constant.int 1
  // CHECK: %[[B0:.*]] = torch.constant.int 1
  // CHECK: %[[M1:.*]] = torch.constant.int 512
  // CHECK: %[[B1:.*]] = torch.constant.int 0
  // CHECK: %[[POLICY:.*]] = torch.prim.ListConstruct %[[M0]], %[[B0]], %[[M1]], %[[B1]] :
  // CHECK: %[[Y:.*]] = torch.operator "torch.sparseflow.linear"(%arg0, %[[P]]#0, %[[P]]#1, %[[B]], %arg1, %[[K]], %[[E]], %[[POLICY]], %{{.*}}) : (!torch.vtensor<[?,?,62],bf16>, !torch.vtensor<[32,32],bf16>, !torch.vtensor<[32,8],ui8>, !torch.vtensor<[32],bf16>, !torch.vtensor<[?,?,32],bf16>, !torch.int, !torch.str, !torch.list<int>, !torch.none) -> !torch.vtensor<[?,?,32],bf16>
  // CHECK: return %[[Y]]
  %w = "sparse_gemm.merged_weight"() {names = ["a", "b"], sizes = array<i64: 20, 12>, transposed = array<i1: false, true>} : () -> !torch.vtensor<[32,62],bf16>
  %b = "sparse_gemm.weight"() {name = "bias"} : () -> !torch.vtensor<[32],bf16>
  %y = "sparse_gemm.linear"(%x, %w, %b, %r) {format = "2:4", epilogue = "gelu", policy = "1:cpu,512:dense", operandSegmentSizes = array<i32: 1, 1, 1, 1>} : (!torch.vtensor<[?,?,62],bf16>, !torch.vtensor<[32,62],bf16>, !torch.vtensor<[32],bf16>, !torch.vtensor<[?,?,32],bf16>) -> !torch.vtensor<[?,?,32],bf16>
  return %y : !torch.vtensor<[?,?,32],bf16>
}

// -----

// No bias, no residual, an empty policy.
// CHECK-LABEL: func.func @plain
func.func @plain(%x: !torch.vtensor<[4,64],f32>) -> !torch.vtensor<[4,32],f32> {
  // CHECK-DAG: %[[PT:.*]] = "sparse_gemm.packed_weight"() {format = "2:4", names = ["w"], weight = !torch.vtensor<[32,64],f32>}
  // CHECK-DAG: %[[P:.*]]:2 = torch.prim.TupleUnpack %[[PT]]
  // CHECK-DAG: %[[POLICY:.*]] = torch.prim.ListConstruct  : () -> !torch.list<int>
  // CHECK: torch.operator "torch.sparseflow.linear"(%arg0, %[[P]]#0, %[[P]]#1, %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}}, %[[POLICY]], %{{.*}}) : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[32,32],f32>, !torch.vtensor<[32,8],ui8>, !torch.none, !torch.none, !torch.int, !torch.str, !torch.list<int>, !torch.none)
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[4,32],f32>
  return %y : !torch.vtensor<[4,32],f32>
}

// -----

// Layers that share a weight share its packed form, across blocks too; another function has its own.
// CHECK-LABEL: func.func @shared
func.func @shared(%x: !torch.vtensor<[4,64],f32>, %c: !torch.bool) -> !torch.vtensor<[4,32],f32> {
  // CHECK: %[[PT:.*]] = "sparse_gemm.packed_weight"() {format = "2:4", names = ["w"]
  // CHECK: %[[P:.*]]:2 = torch.prim.TupleUnpack %[[PT]]
  // CHECK-NOT: packed_weight
  // CHECK: torch.prim.If
  // CHECK: torch.operator "torch.sparseflow.linear"(%arg0, %[[P]]#0, %[[P]]#1
  // CHECK: torch.operator "torch.sparseflow.linear"(%arg0, %[[P]]#0, %[[P]]#1
  %y = torch.prim.If %c -> (!torch.vtensor<[4,32],f32>) {
    %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
    %0 = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[4,32],f32>
    torch.prim.If.yield %0 : !torch.vtensor<[4,32],f32>
  } else {
    %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
    %0 = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "relu", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[4,32],f32>
    torch.prim.If.yield %0 : !torch.vtensor<[4,32],f32>
  }
  return %y : !torch.vtensor<[4,32],f32>
}
// CHECK-LABEL: func.func @other
func.func @other(%x: !torch.vtensor<[4,64],f32>) -> !torch.vtensor<[4,32],f32> {
  // CHECK: "sparse_gemm.packed_weight"() {format = "2:4", names = ["w"]
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %y = "sparse_gemm.linear"(%x, %w) {format = "2:4", epilogue = "none", policy = "", operandSegmentSizes = array<i32: 1, 1, 0, 0>} : (!torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>) -> !torch.vtensor<[4,32],f32>
  return %y : !torch.vtensor<[4,32],f32>
}

// -----

// A dense layer stays what it is, reason and all.
// CHECK-LABEL: func.func @dense
func.func @dense(%x: !torch.vtensor<[4,64],f32>) -> !torch.vtensor<[4,32],f32> {
  // CHECK: torch.aten.linear {{.*}} {sparse_gemm.reason = "skipped"}
  %w = "sparse_gemm.weight"() {name = "w"} : () -> !torch.vtensor<[32,64],f32>
  %none = torch.constant.none
  %y = torch.aten.linear %x, %w, %none {sparse_gemm.reason = "skipped"} : !torch.vtensor<[4,64],f32>, !torch.vtensor<[32,64],f32>, !torch.none -> !torch.vtensor<[4,32],f32>
  return %y : !torch.vtensor<[4,32],f32>
}
