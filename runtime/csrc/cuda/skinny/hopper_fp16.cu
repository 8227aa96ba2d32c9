#include "hopper_kernels.cuh"

namespace sparseflow::cuda::skinny {

const HopperKernels hopper_fp16_kernels = hopper_kernels_of<Fp16>();

}  // namespace sparseflow::cuda::skinny
