// The dense product over a packed weight, for calls where that was measured to be faster.
#pragma once

#include <optional>

#include "args.h"
#include "kernels.h"

namespace sparseflow::cpu {

// act(x · Wᵀ + bias) + residual by torch's own linear: over `dense` if there is one, else W is decompressed into a
// shared scratch, a bounded number of rows at a time. Arguments as in sparseflow::linear, already checked, contiguous
// where they must be.
Tensor dense_linear(const Tensor& x, const Tensor& values, const Tensor& positions, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& residual, int64_t in_features, Activation activation,
                    const std::optional<Tensor>& dense);

}  // namespace sparseflow::cpu
