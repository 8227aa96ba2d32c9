// The choice of a policy for a number of rows.
#pragma once

#include <cstdint>
#include <vector>

#include "common/kernels.h"

namespace sparseflow {

// A decoded code of a policy (runtime/kernels/choice.py). The code has the kernel in its lowest byte, the algorithm in
// the next two, and split-k in the fourth (0 leaves it to the library, 255 stands for −1).
struct Choice {
  Kernel kernel;
  int64_t algorithm = 0, split_k = 0, code = static_cast<int64_t>(kernel);
};

// Returns the choice of `policy` for `m` rows. A policy is pairs of (first M, code) with ascending M; below its first
// pair the device's own sparse kernel runs. Throws if it is malformed or names a kernel that the device doesn't have.
Choice choice_for(const char* op, const std::vector<int64_t>& policy, int64_t m, Device device);

}  // namespace sparseflow
