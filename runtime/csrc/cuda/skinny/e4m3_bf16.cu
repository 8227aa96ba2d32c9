#include "kernels.cuh"

namespace sparseflow::cuda::skinny {

const Kernels e4m3_bf16_kernels = kernels_of<Bf16, true>();

}  // namespace sparseflow::cuda::skinny
