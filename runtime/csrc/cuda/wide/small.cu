// Smaller tiles, for products of few of them.
#include "kernels.cuh"

namespace sparseflow::cuda::wide {

const std::array<Kernel, kSmall> small_kernels{kernel_of<2, 128, 1>(), kernel_of<2, 128, 1, 2>(), kernel_of<2, 64, 2>(),
                                               kernel_of<2, 64, 1, 2>(), kernel_of<1, 64, 1, 2>()};

}  // namespace sparseflow::cuda::wide
