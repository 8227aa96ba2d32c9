// Calls of the skinny kernel by operators.
#pragma once

#include "../multiply.h"
#include "skinny.h"

namespace sparseflow::cuda::skinny {

// Returns the tensor's data, or null without a tensor.
const void* pointer(const std::optional<Tensor>& t);

constexpr int64_t kDefaultChoice = -1;  // the default variant

// Returns why the kernel can't multiply a weight with m rows of x in this variant, or "". It refuses dtypes other than
// bf16 and fp16, weights without columns, and variants that don't exist or don't fit this GPU.
std::string refusal(const DeviceWeight& weight, int64_t m, int64_t variant, bool gated = false);

// Returns y [..., N] = activation(x · Wᵀ + bias) + residual, rounded once, for a joined weight that refusal() accepts.
// If K isn't a multiple of 64, x is copied with padded columns; if N isn't a multiple of 8, so are y, bias and
// residual. With `gated` (see skinny.h), y is [..., N/2], and N must be a multiple of 128.
Tensor product(const Call& call, Activation activation, int64_t variant, bool gated = false);

}  // namespace sparseflow::cuda::skinny
