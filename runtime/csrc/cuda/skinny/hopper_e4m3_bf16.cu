#include "hopper_kernels.cuh"

namespace sparseflow::cuda::skinny {

const HopperKernels hopper_e4m3_bf16_kernels = hopper_kernels_of<Bf16, true>();

}  // namespace sparseflow::cuda::skinny
