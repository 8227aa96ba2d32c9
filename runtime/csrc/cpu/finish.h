// Epilogues of products whose kernel doesn't apply them.
#pragma once

#include <functional>
#include <optional>

#include "args.h"
#include "kernels.h"

namespace sparseflow::cpu {

// Computes y = act(y) + residual in place; both are contiguous.
void finish(const Tensor& y, const std::optional<Tensor>& residual, Activation activation);

// Returns what computes y [..., N/2] = act(g) ⊙ u for the halves g and u of `whole` [..., N], whenever it is called; both are
// contiguous, and it doesn't hold them.
std::function<void()> gating(const Tensor& whole, Activation activation, const Tensor& y);

// Returns act(g) ⊙ u [..., N/2] for the halves g and u of contiguous `whole` [..., N].
Tensor gated(const Tensor& whole, Activation activation);

}  // namespace sparseflow::cpu
