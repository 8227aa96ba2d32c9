// The operator schemas of SparseFlow, registered once through PyTorch's stable ABI.
//
// N, K: out and in features of a weight. Kp: K rounded up to a multiple of 4.
//   values     [N, Kp/2]          the two kept values of every group of four, in order of position
//   positions  [N, ceil(Kp/8)]    uint8; group g sits in byte g/2, low nibble for even g;
//                                 nibble = p0 | p1 << 2 with p0 < p1, the places of the kept values
//   policy     [m0, b0, m1, b1…]  from M >= m_i on, b_i runs (codes: checks.h); below m0 the device's own sparse kernels
//   dense      [N, K]             the same weight kept whole, for the calls that `policy` makes dense
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(sparseflow, m) {
  // y = act(x · Wᵀ + bias) (+ residual), [..., N]; with the epilogue "<act>_gated" and no residual act(g) ⊙ u,
  // [..., N/2], for the halves g and u of x · Wᵀ + bias.
  m.def(
      "linear(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor");
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
}
