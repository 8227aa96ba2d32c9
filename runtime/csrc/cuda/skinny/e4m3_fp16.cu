#include "kernels.cuh"

namespace sparseflow::cuda::skinny {

const Kernels e4m3_fp16_kernels = kernels_of<Fp16, true>();

}  // namespace sparseflow::cuda::skinny
