// Tiles whose sums fill the registers: for many tiles, which are as large as they can be.
#include "kernels.cuh"

namespace sparseflow::cuda::wide {

const std::array<Kernel, kLarge> large_kernels{
    kernel_of<2, 256, 1>(), kernel_of<2, 256, 1, 2>(), kernel_of<2, 256, 1, 1, 2>(), kernel_of<4, 128, 1>(), kernel_of<2, 128, 2>(),
};

}  // namespace sparseflow::cuda::wide
