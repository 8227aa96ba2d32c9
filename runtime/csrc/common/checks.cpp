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

}  // namespace sparseflow
