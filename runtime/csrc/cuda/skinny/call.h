// The own kernel as an operator calls it.
#pragma once

#include "../multiply.h"

namespace sparseflow::cuda::skinny {

// y [..., N] = epilogue(x · Wᵀ + bias) + residual, rounded once. `variant` −1: the default for this shape. Throws
// std::runtime_error("sparseflow::<op>: …") for what the kernel doesn't take: other dtypes than bf16 and fp16, N and
// K that are no multiples of 64, a variant that there isn't or that doesn't fit this GPU.
Tensor product(const char* op, const Call& call, const std::string& epilogue, int64_t variant);

}  // namespace sparseflow::cuda::skinny
