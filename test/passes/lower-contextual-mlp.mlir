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
  // CHECK: %[[Y:.*]] = torch.operator "torch.sparseflow.contextual_mlp_auto"(%arg0, %[[G]], %[[U]], %[[D]], %none{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %[[BD]], %[[A]], %[[B]], %none{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %[[RULE]], %[[K]], %[[ACT]], %[[M]], %none{{[^,]*}}, %none{{[^,]*}}, %[[E:[^,]*]], %none{{[^,]*}}, %none{{[^,]*}}, %{{[^,]*}})
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
  // CHECK: torch.operator "torch.sparseflow.contextual_mlp_by_gate"(%arg0, %none{{[^,]*}}, %[[U]], %[[D]], %none{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %float2.500000e-01, %str, %int4, %none{{[^,]*}}, %none{{[^,]*}}, %{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %{{[^,]*}})
  %u = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %d = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[16,8],f32>
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d) {activation = "relu", rule = "gate", parameter = 0.25 : f64, m_max = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// Both products are 2:4: gate and up are one packed weight and slices of its dense form; down's is turned.
// CHECK-LABEL: func.func @sparse
func.func @sparse(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK: %[[PT:.*]] = "sparse_gemm.packed_weight"() {format = "2:4", names = ["gate.weight", "up.weight"], sizes = array<i64: 16, 16>, weight = !torch.vtensor<[32,8],f32>} : () -> !torch.tuple<vtensor<[32,4],f32>, vtensor<[32,1],ui8>>
  // CHECK: %[[P:.*]]:2 = torch.prim.TupleUnpack %[[PT]]
  // CHECK: %[[W:.*]] = "sparse_gemm.pruned_weight"() {format = "2:4", names = ["gate.weight", "up.weight"], sizes = array<i64: 16, 16>} : () -> !torch.vtensor<[32,8],f32>
  // CHECK: %[[G:.*]] = torch.aten.slice.Tensor %[[W]], %int0{{[^,]*}}, %int0{{[^,]*}}, %int16
  // CHECK: %[[U:.*]] = torch.aten.slice.Tensor %[[W]], %int0{{[^,]*}}, %int16{{[^,]*}}, %int32
  // CHECK: %[[UP:.*]] = torch.prim.ListConstruct %int1{{[^,]*}}, %int1{{[^,]*}}, %int64{{[^,]*}}, %int0
  // CHECK: %[[D:.*]] = "sparse_gemm.pruned_weight"() {format = "2:4", names = ["down.weight"], turned} : () -> !torch.vtensor<[16,8],f32>
  // CHECK: %[[QT:.*]] = "sparse_gemm.packed_weight"() {format = "2:4", names = ["down.weight"], weight = !torch.vtensor<[8,16],f32>} : () -> !torch.tuple<vtensor<[8,8],f32>, vtensor<[8,2],ui8>>
  // CHECK: %[[Q:.*]]:2 = torch.prim.TupleUnpack %[[QT]]
  // CHECK: %[[DOWN:.*]] = torch.prim.ListConstruct : () -> !torch.list<int>
  // CHECK: torch.operator "torch.sparseflow.contextual_mlp_auto"(%arg0, %[[G]], %[[U]], %[[D]], {{.*}}, %[[P]]#0, %[[P]]#1, %[[UP]], %[[Q]]#0, %[[Q]]#1, %[[DOWN]])
  // CHECK-NOT: "sparse_gemm.weight"() {{.*}}"{{gate|up|down}}.weight"
  %u = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %d = "sparse_gemm.weight"() {name = "down.weight", transposed} : () -> !torch.vtensor<[16,8],f32>
  %a = "sparse_gemm.weight"() {name = "up/pred_a"} : () -> !torch.vtensor<[2,8],f32>
  %b = "sparse_gemm.weight"() {name = "up/pred_b"} : () -> !torch.vtensor<[16,2],f32>
  %g = "sparse_gemm.weight"() {name = "gate.weight"} : () -> !torch.vtensor<[16,8],f32>
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d, %a, %b, %g) {activation = "silu", rule = "top_k", parameter = 4.0 : f64, m_max = 8 : i64, up_policy = "1:cpu,64:dense", down_policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[2,8],f32>, !torch.vtensor<[16,2],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// Without a gate up is the whole; Conv1D's weights are stored transposed. The down that isn't 2:4 is read as ever.
// CHECK-LABEL: func.func @plain_up
func.func @plain_up(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK: %[[PT:.*]] = "sparse_gemm.packed_weight"() {format = "2:4", names = ["up.weight"], sizes = array<i64: 16>, transposed = array<i1: true>, weight = !torch.vtensor<[16,8],f32>}
  // CHECK: %[[P:.*]]:2 = torch.prim.TupleUnpack %[[PT]]
  // CHECK: %[[U:.*]] = "sparse_gemm.pruned_weight"() {format = "2:4", names = ["up.weight"], sizes = array<i64: 16>, transposed = array<i1: true>} : () -> !torch.vtensor<[16,8],f32>
  // CHECK: %[[D:.*]] = "sparse_gemm.weight"() {contiguous, name = "down.weight"}
  // CHECK: torch.operator "torch.sparseflow.contextual_mlp_by_gate"(%arg0, %none{{[^,]*}}, %[[U]], %[[D]], {{.*}}, %[[P]]#0, %[[P]]#1, %{{[^,]*}}, %none{{[^,]*}}, %none{{[^,]*}}, %{{[^,]*}})
  %u = "sparse_gemm.weight"() {name = "up.weight", transposed} : () -> !torch.vtensor<[16,8],f32>
  %d = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[16,8],f32>
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d) {activation = "relu", rule = "gate", parameter = 0.25 : f64, m_max = 4 : i64, up_policy = "", operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}

// -----

// A down alone, which is stored as the kernel reads it: packed it is transposed.
// CHECK-LABEL: func.func @turned_down
func.func @turned_down(%x: !torch.vtensor<[?,8],f32>) -> !torch.vtensor<[?,8],f32> {
  // CHECK: "sparse_gemm.weight"() {contiguous, name = "up.weight"}
  // CHECK: "sparse_gemm.pruned_weight"() {format = "2:4", names = ["down.weight"], transposed = array<i1: true>, turned} : () -> !torch.vtensor<[16,8],f32>
  // CHECK: "sparse_gemm.packed_weight"() {format = "2:4", names = ["down.weight"], transposed = array<i1: true>, weight = !torch.vtensor<[8,16],f32>} : () -> !torch.tuple<vtensor<[8,8],f32>, vtensor<[8,2],ui8>>
  %u = "sparse_gemm.weight"() {name = "up.weight"} : () -> !torch.vtensor<[16,8],f32>
  %d = "sparse_gemm.weight"() {name = "down.weight"} : () -> !torch.vtensor<[16,8],f32>
  %y = "sparse_gemm.contextual_mlp"(%x, %u, %d) {activation = "relu", rule = "gate", parameter = 0.25 : f64, m_max = 4 : i64, down_policy = "1:cpu", operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>} : (!torch.vtensor<[?,8],f32>, !torch.vtensor<[16,8],f32>, !torch.vtensor<[16,8],f32>) -> !torch.vtensor<[?,8],f32>
  return %y : !torch.vtensor<[?,8],f32>
}
