#include "choice.h"

#include <string>

#include "common/checks.h"

namespace sparseflow {
namespace {

const char* name_of(Device device) { return device == Device::cuda ? "CUDA" : "the CPU"; }

}  // namespace

// Messages are built only on failure, as this runs in every call.
Choice choice_for(const char* op, const std::vector<int64_t>& policy, int64_t m, Device device) {
  if (policy.size() % 2) refuse(op, "policy must be pairs of (rows, kernel), got an odd count");
  Choice choice{device == Device::cuda ? Kernel::cusparselt : Kernel::cpu};
  for (size_t i = 0; i < policy.size(); i += 2) {
    const int64_t code = policy[i + 1], byte = code & 255, rest = code >> 8;
    const KernelEntry* kernel = kernel_of(byte);
    if (!kernel || (kernel->device != device && kernel->device != Device::any))
      refuse(op, "policy names kernel " + std::to_string(byte) + ", which " + name_of(device) + " doesn't have");
    if (rest < 0 || rest >> kernel->bits)
      refuse(op, "policy has the code " + std::to_string(code) + ", which means nothing for kernel " +
                     std::to_string(byte));
    if (i && policy[i] <= policy[i - 2]) refuse(op, "the rows in policy must rise");
    const int64_t split = rest >> 16;
    if (m >= policy[i]) choice = {kernel->code, rest & 0xffff, split == 255 ? -1 : split, code};
  }
  return choice;
}

}  // namespace sparseflow
