// What follows a product whose kernel doesn't do it itself.
#pragma once

#include <optional>

#include "common/checks.h"
#include "common/types.h"

namespace sparseflow::cuda {

// Applies an activation in place.
Tensor activated(const Tensor& y, Activation activation);

Tensor added(const Tensor& y, const std::optional<Tensor>& residual);

// Returns activation(g) ⊙ u [..., n], for the halves g and u of the m rows of `product` [..., 2n].
Tensor gated(const char* op, const Tensor& product, int64_t m, Activation activation);

}  // namespace sparseflow::cuda
