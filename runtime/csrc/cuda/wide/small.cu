// Small tiles, or such that share out K: for fewer tiles than there are multiprocessors.
#include "kernels.cuh"

namespace sparseflow::cuda::wide {

const std::array<Kernel, kSmall> small_kernels{
    kernel_of<2, 128, 2, 1, 1, 2>(), kernel_of<2, 64, 2>(), kernel_of<2, 64, 2, 1, 1, 2>(), kernel_of<2, 64, 1, 1, 1, 2>(),
};

}  // namespace sparseflow::cuda::wide
