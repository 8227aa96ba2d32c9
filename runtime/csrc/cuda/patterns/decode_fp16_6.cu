#include "decode_kernels.cuh"

namespace sparseflow::cuda::patterns {

const DecodeKernels fp16_kernels_6 = decode_kernels_of<skinny::Fp16, 6>();

}  // namespace sparseflow::cuda::patterns
