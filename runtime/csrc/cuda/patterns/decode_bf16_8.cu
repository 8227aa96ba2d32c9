#include "decode_kernels.cuh"

namespace sparseflow::cuda::patterns {

const DecodeKernels bf16_kernels_8 = decode_kernels_of<skinny::Bf16, 8>();

}  // namespace sparseflow::cuda::patterns
