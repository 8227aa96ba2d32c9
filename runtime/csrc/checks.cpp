#include "checks.h"

#include <stdexcept>

namespace sparseflow {

void refuse(const char* op, const std::string& message) {
  throw std::runtime_error("sparseflow::" + std::string(op) + ": " + message);
}

std::string shape_of(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + "]";
}

std::vector<int64_t> sizes_with_last(const Tensor& x, int64_t last) {
  const auto sizes = x.sizes();
  std::vector<int64_t> out(sizes.begin(), sizes.end());
  out.back() = last;
  return out;
}

// The messages are made only where they are needed: this runs in every call.
Choice choice_for(const char* op, const std::vector<int64_t>& policy, int64_t m, Backend own, const char* device) {
  if (policy.size() % 2) refuse(op, "policy must be pairs of (rows, backend), got an odd count");
  Choice choice{own};
  for (size_t i = 0; i < policy.size(); i += 2) {
    const int64_t code = policy[i + 1], backend = code & 255, rest = code >> 8;
    if (backend != kDense && backend != own && !(backend == kSkinny && own == kCusparselt))
      refuse(op, "policy names backend " + std::to_string(backend) + ", which " + device + " doesn't have");
    const int64_t most = backend == kCusparselt ? 24 : backend == kSkinny ? 16 : 0;  // bits
    if (rest < 0 || rest >> most)
      refuse(op, "policy has the code " + std::to_string(code) + ", which means nothing for backend " +
                     std::to_string(backend));
    if (i && policy[i] <= policy[i - 2]) refuse(op, "the rows in policy must rise");
    const int64_t split = rest >> 16;
    if (m >= policy[i]) choice = {backend, rest & 0xffff, split == 255 ? -1 : split};
  }
  return choice;
}

}  // namespace sparseflow
