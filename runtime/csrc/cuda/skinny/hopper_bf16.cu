#include "hopper_kernels.cuh"

namespace sparseflow::cuda::skinny {

const HopperKernels hopper_bf16_kernels = hopper_kernels_of<Bf16>();

}  // namespace sparseflow::cuda::skinny
