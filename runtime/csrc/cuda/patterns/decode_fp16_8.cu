#include "decode_kernels.cuh"

namespace sparseflow::cuda::patterns {

const DecodeKernels fp16_kernels_8 = decode_kernels_of<skinny::Fp16, 8>();

}  // namespace sparseflow::cuda::patterns
