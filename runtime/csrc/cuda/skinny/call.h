// Calls of the skinny kernel by operators.
#pragma once

#include "../multiply.h"
#include "skinny.h"

namespace sparseflow::cuda::skinny {

// Returns the tensor's data, or null without a tensor.
const void* pointer(const std::optional<Tensor>& t);

constexpr int64_t kDefaultChoice = -1;  // the default variant

// Why the kernel doesn't take a weight with m rows of x in this variant, or "": other dtypes than bf16, fp16 and e4m3,
// no columns, a variant that there isn't or that doesn't fit this GPU.
std::string refusal(const DeviceWeight& weight, int64_t m, int64_t variant, bool gated = false);

// What a product does of root-mean-square norms (skinny.h); nothing by default.
struct Norms {
  const Tensor* squares = nullptr;  // of the norm before: [M, K/8] in float32
  double eps = 0;
  const Tensor* weight = nullptr;   // of the norm after: [N], of y's dtype
};

// What a product gives: y, and for a norm that follows x [..., N] and squares [M, N/8].
struct Result {
  Tensor y;
  std::optional<Tensor> x, squares;
};

// y [..., N] = activation(x · Wᵀ + bias) + residual, rounded once, of a whole weight that refusal() takes, and x in bf16
// or fp16; a weight in e4m3 is multiplied by the call's scale, if it has one. Where K is no
// multiple of 64, x is copied with its columns padded; where N is none of 8, so are y, bias, scale and residual.
// With `gated`, as skinny.h says, y is [..., N/2] and N a multiple of 128. Norms need a weight that isn't padded.
Result product(const Call& call, Activation activation, int64_t variant, bool gated, const Norms& norms);
Tensor product(const Call& call, Activation activation, int64_t variant, bool gated = false);

}  // namespace sparseflow::cuda::skinny
