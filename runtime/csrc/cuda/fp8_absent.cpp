// Stands in for fp8.cu where the build found no CUDA compiler.
#include <stdexcept>

#include "fp8.h"

namespace sparseflow::cuda {

void quantize_rows(const Fp8Rows&, void*) {
  throw std::runtime_error("sparseflow::linear_fp8: built without CUDA kernels");
}
void rescale(const Rescaled&, void*) {
  throw std::runtime_error("sparseflow::linear_fp8: built without CUDA kernels");
}
bool can_requantize(int64_t) { return false; }
void requantize(const Requantized&, void*) {
  throw std::runtime_error("sparseflow::linear_fp8: built without CUDA kernels");
}

}  // namespace sparseflow::cuda
