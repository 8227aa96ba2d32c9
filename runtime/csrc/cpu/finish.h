// What follows a product whose kernel didn't do it itself.
#pragma once

#include <optional>

#include "args.h"
#include "kernels.h"

namespace sparseflow::cpu {

// y = act(y) + residual in place; both contiguous.
void finish(const Tensor& y, const std::optional<Tensor>& residual, Activation activation);

// act(g) ⊙ u [..., N/2] for the halves g and u of contiguous `whole` [..., N].
Tensor gated(const Tensor& whole, Activation activation);

}  // namespace sparseflow::cpu
