// y [M, N] = x [M, K] · Wᵀ of e4m3 for many rows of x, on sm_90: W 2:4 in the layout of CUDA (../layout.h), sums in fp32,
// scales of the rows of W and of x, bias, activation, gate and residual in the product's end.
#pragma once

#include <string>

#include "../../common/types.h"

namespace sparseflow::cuda::wide {

// y = activation(x · Wᵀ ∘ w_scale ∘ x_scale + bias) + residual, or with `gated` y = activation(g) ⊙ u, [M, N/2], for the
// halves g and u of what is activated otherwise. All pointers on the device, aligned to 16 bytes; values and positions as
// in layout.h, padded; x [M, K], y and residual [M, N], bias [N], all contiguous.
struct Product {
  const void* values;
  const void* positions;
  const void* x;
  const float *w_scale, *x_scale;  // [N] and [M], or null
  const void* bias;                // or null
  const void* residual;            // or null; null where gated
  int n, k, m;
  Activation activation;
  bool gated, half;  // `half`: bias, residual and y are fp16, else bf16
  void* y;
};

// A variant is a shape of tiles and the number of blocks that share K. The order of sums is fixed, so the same input
// gives the same bits.
extern const int kVariants;

// Why this variant can't run on this device for this product, or ""; of the product only sizes and `gated` are read.
std::string refusal(int variant, const Product& p, int device);

// Must be called after devices were reset, as they lose the kernels' attributes.
void forget_devices();

// Launches the kernel on `stream`, where it may start before the one before it ends; throws std::runtime_error if that
// fails.
void run(const Product& p, int variant, int device, void* stream);

}  // namespace sparseflow::cuda::wide
