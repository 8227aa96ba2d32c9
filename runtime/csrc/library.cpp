// The operator schemas of SparseFlow, registered once through PyTorch's stable ABI.
//
// N, K: out and in features of a weight. Kp: K rounded up to a multiple of 4.
//   values     [N, Kp/2]          the two kept values of every group of four, in order of position
//   positions  [N, ceil(Kp/8)]    uint8; group g sits in byte g/2, low nibble for even g;
//                                 nibble = p0 | p1 << 2 with p0 < p1, the positions of the kept values
//   policy     [m0, b0, m1, b1…]  from M >= m_i on, b_i runs (codes: common/kernels.h); below m0 the device's own sparse kernels
//   dense      [N, K]             the same weight stored densely, for the calls that `policy` runs densely
#include <torch/csrc/stable/library.h>

#include <string>
#include <vector>

#include "common/kernels.h"

namespace sparseflow {
namespace {

std::vector<std::string> kernels() {
  std::vector<std::string> found;
  for (const KernelEntry& kernel : kKernels)
    found.push_back(std::string(kernel.name) + '=' + std::to_string(static_cast<int64_t>(kernel.code)));
  return found;
}

}  // namespace
}  // namespace sparseflow

STABLE_TORCH_LIBRARY(sparseflow, m) {
  // y = act(x · Wᵀ + bias) (+ residual), [..., N]. With an epilogue "<act>_gated", which allows no residual,
  // y = act(g) ⊙ u, [..., N/2], for the halves g and u of x · Wᵀ + bias.
  m.def(
      "linear(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor");
  // The same for weights that keep all but two of each block of B columns, B = 6 or 8:
  //   values     [N, (B-2)·b]       b = ceil(K/B): the kept values of every block, in order of position
  //   positions  [N, ceil(b·c/8)]   uint8: a code of c = 4 (B = 6) or 5 bits for each block, without gaps, low bits first:
  //                                 the rank of its pair of dropped columns (i, j), i < j, in lexicographic order
  m.def(
      "linear_4_6(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor");
  m.def(
      "linear_6_8(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor");
  // Runs linear() by a kernel that was registered from Python, given its code (runtime/kernels/registry.py).
  m.def(
      "linear_registered(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int code) -> Tensor");
  // The message of the error that the last linear_registered of this thread raised.
  m.def("registered_failure(int code) -> str");
  // The kernels of this library, each as "name=code".
  m.def("kernels() -> str[]");
  // y = act((x8 · W8ᵀ) · x_scale · scales + bias) (+ residual) in the dtype of x, where x8 is x quantised row by row to
  // e4m3; values are those of W8 in e4m3, scales are [N] float32, and dense is W8 stored densely. Gated epilogues as in
  // linear.
  m.def(
      "linear_fp8(Tensor x, Tensor values, Tensor positions, Tensor scales, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor");
  // x in e4m3 and the scales of its rows, as such layers quantise it.
  m.def("quantize_rows_fp8(Tensor x) -> (Tensor x8, Tensor scale)");
  // Two of them, one after the other, of many rows on CUDA: runtime/fp8_between.py.
  m.def(
      "linear_fp8_to_rows(Tensor x, Tensor values, Tensor positions, Tensor scales, Tensor? bias, int in_features, "
      "str epilogue, int[] policy, Tensor? dense=None) -> (Tensor y8, Tensor y_scale)");
  m.def(
      "linear_fp8_of_rows(Tensor x, Tensor x_scale, Tensor values, Tensor positions, Tensor scales, Tensor? bias, "
      "Tensor? residual, int in_features, str epilogue, ScalarType out_dtype, int[] policy, Tensor? dense=None) -> Tensor");
  // The product alone: x8 · W8ᵀ in bfloat16, whose range holds every such sum.
  m.def(
      "product_fp8(Tensor x, Tensor values, Tensor positions, int in_features, int[] policy, Tensor? dense=None) "
      "-> Tensor");
  // y = x · Wᵀ + bias for few rows of x, [..., N]; x [..., K], weight [N, K] and bias [N] of one dtype.
  m.def("dense_rows(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  // softmax(q · kᵀ · scale) · v over the keys that each query sees, [B, H, Q, D]; the arguments are described in
  // runtime/decode_attention.py.
  m.def(
      "decode_attention(Tensor q, Tensor k, Tensor v, Tensor? position, Tensor? keep, float scale, int window=0) "
      "-> Tensor");
  m.def("prune_2_4(Tensor weight) -> Tensor");
  m.def("pack_2_4(Tensor weight) -> (Tensor values, Tensor positions)");
  m.def("unpack_2_4(Tensor values, Tensor positions, int in_features) -> Tensor");
  // The same for blocks of 6 or 8 columns.
  m.def("prune_blocks(Tensor weight, int block) -> Tensor");
  m.def("pack_blocks(Tensor weight, int block) -> (Tensor values, Tensor positions)");
  m.def("unpack_blocks(Tensor values, Tensor positions, int in_features, int block) -> Tensor");
  // The first row that isn't 2:4, or isn't finite, and its first bad group of four or column; (-1, -1) if there is
  // none.
  m.def("first_not_2_4(Tensor weight) -> (int row, int group)");
  m.def("first_not_finite(Tensor weight) -> (int row, int column)");
  m.def("cpu_isa() -> str");
  // Tapes (cpu/tape.h), each by its address. Between begin and end the operators linear, linear_4_6, linear_6_8, dense_rows,
  // decode_attention and column_linear that this thread calls on a CPU are recorded, and kernels that tape_kernel names: C
  // functions that take pointers. tape_end returns why the tape can't be played; empty if it can. Tensors that kernels
  // read and write must live as long as the tape.
  m.def("tape_begin() -> int");
  m.def("tape_kernel(int function, int[] pointers) -> int");
  m.def("tape_end(int tape) -> str");
  m.def("tape_play(int tape) -> int");
  m.def("tape_free(int tape) -> int");

  // Contextual MLPs, y = (act(x · gateᵀ + gate_bias) ⊙ (x · upᵀ + up_bias)) · down_t + down_bias over the neurons of a
  // list; without a gate, y = act(x · upᵀ + up_bias) · down_t + down_bias. x is [..., H]; gate, up and down_t are [I,
  // H] in x's dtype, or int8 with scales [I] float32. neurons is [I] int32, ascending, of which the first count [1]
  // int32 are read, for all rows of x; or [M, I] with count [M], a list for each row.
  m.def(
      "contextual_mlp(Tensor x, Tensor? gate, Tensor up, Tensor down_t, Tensor? gate_scale, Tensor? up_scale, "
      "Tensor? down_scale, Tensor? gate_bias, Tensor? up_bias, Tensor? down_bias, Tensor neurons, Tensor count, "
      "str activation) -> Tensor");
  // Returns (x · aᵀ) · bᵀ + bias, [M, I] float32; a [r, H] and b [I, r] have any floating dtype, or int8 with scales
  // [r] and [I].
  m.def(
      "contextual_scores(Tensor x, Tensor a, Tensor b, Tensor? bias, Tensor? a_scale=None, Tensor? b_scale=None) "
      "-> Tensor");
  // Returns the selected neurons, as one list for the union of all rows or as a list for each row. "threshold" selects
  // scores > parameter; "top_k" the largest `parameter` scores of a row; "statistical" scores > mean + parameter ·
  // standard deviation of their row. NaNs are always selected.
  m.def(
      "contextual_select(Tensor scores, str rule, float parameter, bool per_row=False) "
      "-> (Tensor neurons, Tensor count)");
  // contextual_scores, contextual_select and contextual_mlp in one call.
  m.def(
      "contextual_mlp_predicted(Tensor x, Tensor? gate, Tensor up, Tensor down_t, Tensor? gate_scale, Tensor? up_scale, "
      "Tensor? down_scale, Tensor? gate_bias, Tensor? up_bias, Tensor? down_bias, Tensor pred_a, Tensor pred_b, "
      "Tensor? pred_bias, Tensor? pred_a_scale, Tensor? pred_b_scale, str rule, float parameter, str activation, "
      "bool per_row=False) -> Tensor");
  // contextual_mlp_predicted for up to m_max rows of x, and the dense MLP over the same tensors for more. If the
  // weights of gate and up, or of down, are 2:4, they may be given packed as well (gate's rows, then up's): the
  // products for more than m_max rows then run by their policy.
  m.def(
      "contextual_mlp_auto(Tensor x, Tensor? gate, Tensor up, Tensor down_t, Tensor? gate_scale, Tensor? up_scale, "
      "Tensor? down_scale, Tensor? gate_bias, Tensor? up_bias, Tensor? down_bias, Tensor pred_a, Tensor pred_b, "
      "Tensor? pred_bias, Tensor? pred_a_scale, Tensor? pred_b_scale, str rule, float parameter, str activation, "
      "int m_max, Tensor? up_values=None, Tensor? up_positions=None, int[] up_policy=[], Tensor? down_values=None, "
      "Tensor? down_positions=None, int[] down_policy=[]) -> Tensor");

  // y = act(x' · weight · scale + bias) (+ residual), [..., N], x' being x [..., K] with 0 for what is smaller in magnitude
  // than the threshold; a NaN is kept. weight [K, N] in x's dtype, or int8 with scale [N] float32. For more than m_max rows,
  // and for x [..., S, K] with S > 1, which is a sequence that is read at once, x' is x. The epilogue is that of linear.
  m.def(
      "column_linear(Tensor x, Tensor weight, float threshold, Tensor? bias=None, Tensor? residual=None, "
      "Tensor? scale=None, int m_max=8, str epilogue=\"none\") -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) {
  m.impl("kernels", TORCH_BOX(&sparseflow::kernels));
}
