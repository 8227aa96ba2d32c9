#include "kernels.cuh"

namespace sparseflow::cuda::skinny {

const Kernels bf16_kernels = kernels_of<Bf16>();

}  // namespace sparseflow::cuda::skinny
