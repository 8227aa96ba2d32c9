// The own kernel as an operator calls it.
#pragma once

#include "../multiply.h"
#include "cpu/kernels.h"

namespace sparseflow::cuda::skinny {

// Why the kernel doesn't take a weight with m rows of x in this variant, or "": other dtypes than bf16 and fp16, N and K
// that are no multiples of 64, a variant that there isn't or that doesn't fit this GPU. −1 is the default variant.
std::string refusal(const DeviceWeight& weight, int64_t m, int64_t variant, bool gated = false);

// y [..., N] = epilogue(x · Wᵀ + bias) + residual, rounded once, of a weight that is aligned and that refusal() takes.
// With `gated`, as skinny.h says, y is [..., N/2].
Tensor product(const Call& call, cpu::Epilogue epilogue, int64_t variant, bool gated = false);

}  // namespace sparseflow::cuda::skinny
