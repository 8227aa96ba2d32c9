// A kernel that applies the gate, for products whose kernel doesn't.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace sparseflow::cuda {

// y [m, n] = activation(g) ⊙ u for the halves g and u of whole [m, 2n], computed in fp32 and rounded once. All are of
// one dtype, contiguous, on the device and aligned to 16 bytes.
struct Gated {
  int64_t m, n;
  const void* whole;
  DType dtype;
  void* y;
  Activation activation;
};

// Launches the kernel on `stream`; throws std::runtime_error if that fails.
void apply_gate(const Gated& gated, void* stream);

}  // namespace sparseflow::cuda
