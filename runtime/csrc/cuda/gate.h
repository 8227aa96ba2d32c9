// The gate of a product that its own kernel didn't apply.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace sparseflow::cuda {

// y [m, n] = activation(g) ⊙ u for the halves g and u of whole [m, 2n], all of one dtype, contiguous, on the device and
// aligned to 16 bytes. In fp32 inside, rounded once.
struct Gated {
  int64_t m, n;
  const void* whole;
  DType dtype;
  void* y;
  Activation activation;
};

// Launches on `stream`; throws std::runtime_error where the launch fails.
void apply_gate(const Gated& gated, void* stream);

}  // namespace sparseflow::cuda
