// Tiles whose sums fill the registers, for products of many of them: what is read from shared memory for a sum is least.
#include "kernels.cuh"

namespace sparseflow::cuda::wide {

const std::array<Kernel, kLarge> large_kernels{
    kernel_of<2, 256, 1>(),
    kernel_of<3, 192, 1>(),
    kernel_of<3, 192, 1, 1, 2>(),
    kernel_of<4, 128, 1>(),
};

}  // namespace sparseflow::cuda::wide
