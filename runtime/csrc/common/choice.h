// What a policy says for a number of rows.
#pragma once

#include <cstdint>
#include <vector>

#include "common/kernels.h"

namespace sparseflow {

// A code of a policy (runtime/kernels/choice.py): the kernel in the low byte, its algorithm in the next two and split-k
// in the one above (0 leaves the choice, 255 stands for −1).
struct Choice {
  Kernel kernel;
  int64_t algorithm = 0, split_k = 0, code = static_cast<int64_t>(kernel);
};

// What `policy`, pairs of (from M rows on, code) in rising order, says for `m` rows; below its first pair, the device's
// own sparse kernel. Throws where it is malformed or names a kernel that the device doesn't have.
Choice choice_for(const char* op, const std::vector<int64_t>& policy, int64_t m, Device device);

}  // namespace sparseflow
