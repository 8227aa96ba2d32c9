// Large tiles: what is read from and written to shared memory for a sum is least.
#include "kernels.cuh"

namespace sparseflow::cuda::wide {

const std::array<Kernel, kLarge> large_kernels{kernel_of<3, 192, 1>(), kernel_of<4, 128, 1>(), kernel_of<3, 128, 1>(),
                                               kernel_of<4, 128, 1, 2>()};

}  // namespace sparseflow::cuda::wide
