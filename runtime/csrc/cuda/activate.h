// A kernel that applies an activation in place, after products whose kernel doesn't.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace sparseflow::cuda {

// y [count] in 16 bits, on the device, aligned to 16 bytes; count is a multiple of 8.
struct Activated {
  int64_t count;
  bool half;  // fp16, else bf16
  void* y;
  Activation activation;
};

// Launches the kernel on `stream`; throws std::runtime_error if that fails.
void activate(const Activated& activated, void* stream);

}  // namespace sparseflow::cuda
