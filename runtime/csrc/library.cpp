// The operator schemas of SparseFlow, registered once through PyTorch's stable ABI.
//
// N, K: out and in features of a weight. Kp: K rounded up to a multiple of 4.
//   values     [N, Kp/2]          the two kept values of every group of four, in order of position
//   positions  [N, ceil(Kp/8)]    uint8; group g sits in byte g/2, low nibble for even g;
//                                 nibble = p0 | p1 << 2 with p0 < p1, the places of the kept values
//   policy     [m0, b0, m1, b1…]  from M >= m_i on, b_i runs (codes: common/kernels.h); below m0 the device's own sparse kernels
//   dense      [N, K]             the same weight kept whole, for the calls that `policy` makes dense
#include <torch/csrc/stable/library.h>

#include <string>
#include <vector>

#include "common/kernels.h"

namespace sparseflow {
namespace {

std::vector<std::string> kernels() {
  std::vector<std::string> found;
  for (const KernelEntry& kernel : kKernels)
    found.push_back(kernel.name + ("=" + std::to_string(static_cast<int64_t>(kernel.code))));
  return found;
}

}  // namespace
}  // namespace sparseflow

STABLE_TORCH_LIBRARY(sparseflow, m) {
  // y = act(x · Wᵀ + bias) (+ residual), [..., N]; with the epilogue "<act>_gated" and no residual act(g) ⊙ u,
  // [..., N/2], for the halves g and u of x · Wᵀ + bias.
  m.def(
      "linear(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor");
  // The same by a kernel that was registered from Python, by its code in a policy (runtime/kernels/registered.py).
  m.def(
      "linear_registered(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int code) -> Tensor");
  // What the last such call of this thread raised.
  m.def("registered_failure(int code) -> str");
  // The kernels of this library, each as "name=code".
  m.def("kernels() -> str[]");
  // In e4m3, y = act((x8 · W8ᵀ) · x_scale · scales + bias) (+ residual) in the dtype of x, which it quantises row by
  // row; values are W8, scales [N] float32, dense is W8 whole.
  m.def(
      "linear_fp8(Tensor x, Tensor values, Tensor positions, Tensor scales, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor");
  // Its product alone: x8 · W8ᵀ in bfloat16, which holds every such sum.
  m.def(
      "product_fp8(Tensor x, Tensor values, Tensor positions, int in_features, int[] policy, Tensor? dense=None) "
      "-> Tensor");
  m.def("prune_2_4(Tensor weight) -> Tensor");
  m.def("pack_2_4(Tensor weight) -> (Tensor values, Tensor positions)");
  m.def("unpack_2_4(Tensor values, Tensor positions, int in_features) -> Tensor");
  // The first row that breaks the rule, and its first bad group (of four) or column; (-1, -1) where none does.
  m.def("first_not_2_4(Tensor weight) -> (int row, int group)");
  m.def("first_not_finite(Tensor weight) -> (int row, int column)");
  m.def("cpu_isa() -> str");

  // Contextual MLPs, y = (act(x · gateᵀ + gate_bias) ⊙ (x · upᵀ + up_bias)) · down_t + down_bias over the neurons of a
  // list; without a gate act(x · upᵀ + up_bias) · down_t. x [..., H], gate, up and down_t [I, H] in x's dtype, or int8
  // with scales [I] float32. neurons [I] int32, ascending, of which count [1] int32 are read, one list for all rows of x;
  // or [M, I] with [M], one for each.
  m.def(
      "contextual_mlp(Tensor x, Tensor? gate, Tensor up, Tensor down_t, Tensor? gate_scale, Tensor? up_scale, "
      "Tensor? down_scale, Tensor? gate_bias, Tensor? up_bias, Tensor? down_bias, Tensor neurons, Tensor count, "
      "str activation) -> Tensor");
  // [M, I] float32: (x · aᵀ) · bᵀ + bias; a [r, H] and b [I, r] in any floating dtype, or int8 with scales [r] and [I].
  m.def(
      "contextual_scores(Tensor x, Tensor a, Tensor b, Tensor? bias, Tensor? a_scale=None, Tensor? b_scale=None) "
      "-> Tensor");
  // The lists: of the rows' union, or of each row. "threshold": score > parameter; "top_k": the largest `parameter`
  // scores of a row; "statistical": score > mean + parameter · standard deviation of its row. A NaN is selected.
  m.def(
      "contextual_select(Tensor scores, str rule, float parameter, bool per_row=False) "
      "-> (Tensor neurons, Tensor count)");
  // The three in one call.
  m.def(
      "contextual_mlp_predicted(Tensor x, Tensor? gate, Tensor up, Tensor down_t, Tensor? gate_scale, Tensor? up_scale, "
      "Tensor? down_scale, Tensor? gate_bias, Tensor? up_bias, Tensor? down_bias, Tensor pred_a, Tensor pred_b, "
      "Tensor? pred_bias, Tensor? pred_a_scale, Tensor? pred_b_scale, str rule, float parameter, str activation, "
      "bool per_row=False) -> Tensor");
  // That for up to m_max rows of x; for more, the dense MLP over the same tensors. The weights of gate and up, or of down,
  // may be 2:4 and given packed too, as `linear` takes them (gate's rows, then up's): then such a product of more rows
  // runs by its policy.
  m.def(
      "contextual_mlp_auto(Tensor x, Tensor? gate, Tensor up, Tensor down_t, Tensor? gate_scale, Tensor? up_scale, "
      "Tensor? down_scale, Tensor? gate_bias, Tensor? up_bias, Tensor? down_bias, Tensor pred_a, Tensor pred_b, "
      "Tensor? pred_bias, Tensor? pred_a_scale, Tensor? pred_b_scale, str rule, float parameter, str activation, "
      "int m_max, Tensor? up_values=None, Tensor? up_positions=None, int[] up_policy=[], Tensor? down_values=None, "
      "Tensor? down_positions=None, int[] down_policy=[]) -> Tensor");

  // y = x' · weight · scale + bias (+ residual), [..., N], x' being x [..., K] with 0 for what is smaller in magnitude than
  // the threshold; a NaN is kept. weight [K, N] in x's dtype, or int8 with scale [N] float32. For more than m_max rows, and
  // for x [..., S, K] with S > 1, which is a sequence that is read at once, x' is x.
  m.def(
      "column_linear(Tensor x, Tensor weight, float threshold, Tensor? bias=None, Tensor? residual=None, "
      "Tensor? scale=None, int m_max=8) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) {
  m.impl("kernels", TORCH_BOX(&sparseflow::kernels));
}
