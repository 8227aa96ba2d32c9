// The dense product with a packed weight, for calls in which it was measured to be faster.
#pragma once

#include <optional>

#include "args.h"
#include "kernels.h"

namespace sparseflow::cpu {

// Returns act(x · Wᵀ + bias) + residual, computed by torch's linear with `dense` if given. Otherwise W is decompressed
// into shared scratch memory, a bounded number of rows at a time. The arguments are those of sparseflow::linear,
// already checked and contiguous, and the columns of a block of W.
Tensor dense_linear(const Tensor& x, const Tensor& values, const Tensor& positions, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& residual, int64_t in_features, Activation activation,
                    const std::optional<Tensor>& dense, int64_t block = 4);

}  // namespace sparseflow::cpu
