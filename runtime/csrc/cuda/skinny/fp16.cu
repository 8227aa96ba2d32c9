#include "kernels.cuh"

namespace sparseflow::cuda::skinny {

const Kernels fp16_kernels = kernels_of<Fp16>();

}  // namespace sparseflow::cuda::skinny
