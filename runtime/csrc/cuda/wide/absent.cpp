// Stands in for the kernel where the build found no CUDA compiler.
#include <stdexcept>

#include "wide.h"

namespace sparseflow::cuda::wide {

const int kVariants = 0;

std::string refusal(int, const Product&, int) { return "built without CUDA kernels, for want of nvcc or for CPUs alone"; }
void forget_devices() {}
void run(const Product&, int, int, void*) {
  throw std::runtime_error("sparseflow::wide_linear: built without CUDA kernels");
}

}  // namespace sparseflow::cuda::wide
