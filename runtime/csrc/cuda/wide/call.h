// Calls of the kernel for many rows by operators.
#pragma once

#include "../multiply.h"
#include "wide.h"

namespace sparseflow::cuda::wide {

// Why the kernel doesn't take a weight with m rows of x in this variant, or "".
std::string refusal(const DeviceWeight& weight, int64_t m, int64_t variant, bool gated = false);

// What follows the sums; tensors are contiguous and aligned, bias and residual of y's dtype.
struct End {
  std::optional<Tensor> w_scale, x_scale, bias, residual;  // scales [N] and [M]
  Activation activation = Activation::none;
  bool gated = false;
};

// y [..., N], or [..., N/2] with a gate, of dtype `out`, of a whole weight that refusal() takes and x [..., K] in e4m3,
// contiguous and aligned, of m rows.
Tensor product(const DeviceWeight& weight, const Tensor& x, int64_t m, const End& end, ScalarType out, int64_t variant);

}  // namespace sparseflow::cuda::wide
