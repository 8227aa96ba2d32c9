// Kernels that were registered from Python (runtime/kernels/registry.py), as the native operators call them.
#pragma once

#include <optional>
#include <string>

#include "common/checks.h"
#include "common/choice.h"

namespace sparseflow {

// sparseflow::linear by the kernel of such a choice, arguments as the operator got them; throws with what it raised.
Tensor run_registered(const Tensor& x, const Tensor& values, const Tensor& positions,
                      const std::optional<Tensor>& bias, const std::optional<Tensor>& residual, int64_t in_features,
                      const std::string& epilogue, const Choice& choice);

}  // namespace sparseflow
