// Stands in for the kernels where the build found no CUDA compiler.
#include <stdexcept>

#include "skinny.h"

namespace sparseflow::cuda::skinny {

std::string refusal(int, const Product&, int) { return "built without CUDA kernels, for want of nvcc or for CPUs alone"; }
int default_variant(const Product&, int) { return 0; }
int64_t partial_count(const Product&, int, int) { return 0; }
void forget_devices() {}
void run(const Product&, bool, int, int, void*) {
  throw std::runtime_error("sparseflow::skinny_linear: built without CUDA kernels");
}

}  // namespace sparseflow::cuda::skinny
