#include "decode_kernels.cuh"

namespace sparseflow::cuda::patterns {

const DecodeKernels bf16_kernels_6 = decode_kernels_of<skinny::Bf16, 6>();

}  // namespace sparseflow::cuda::patterns
