// Calls of kernels that were registered from Python (runtime/kernels/registry.py).
#pragma once

#include <optional>
#include <string>

#include "common/checks.h"
#include "common/choice.h"

namespace sparseflow {

// Runs sparseflow::linear by the registered kernel of a choice, with the operator's arguments. Throws with the message
// of the Python error.
Tensor run_registered(const Tensor& x, const Tensor& values, const Tensor& positions,
                      const std::optional<Tensor>& bias, const std::optional<Tensor>& residual, int64_t in_features,
                      const std::string& epilogue, const Choice& choice);

}  // namespace sparseflow
