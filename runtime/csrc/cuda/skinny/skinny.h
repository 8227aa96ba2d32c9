// The skinny kernel: y [M, N] = x [M, K] · Wᵀ for few rows of x, where reading W takes most of the time. W is 2:4 in
// the layout of CUDA (../layout.h), in bf16 or fp16; sums are in fp32. K must be a multiple of 64, N of 8. M may be
// anything; the kernel is made for 1 … 64, and beyond reads W once for every 64 rows of x.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "../../common/types.h"

namespace sparseflow::cuda::skinny {

// y = activation(x · Wᵀ + bias) + residual, or with `gated` y = activation(g) ⊙ u, [M, N/2], for the halves g and u of
// x · Wᵀ + bias. All pointers are on the device, aligned to 16 bytes. Values are [N, K/2], and places as in layout.h; x
// is [M, K], y and residual [M, N], and bias [N], all contiguous and of one dtype.
struct Product {
  const void* values;
  const void* places;
  const void* x;
  const void* bias;      // or null
  const void* residual;  // or null; null where gated
  int n, k, m;
  Activation activation;
  bool gated = false;
  void* y = nullptr;
  float* partials = nullptr;  // partial_count() floats, or null where that is 0
};

// A variant is a shape of the thread blocks and the number of blocks that share the K of a strip. The first
// `kPortableVariants` run from sm_80 on (kernel.cuh), the others on sm_90 (hopper.cuh). The shares' sums are added
// through the shared memory of a cluster, or through `partials`: in most variants for sm_90 from 52 on, on GPUs without
// clusters, and if `kThroughMemory` is added to a portable variant. The order is fixed, so the same input gives the
// same bits.
constexpr int kPortableVariants = 16, kHopperVariants = 45, kVariants = kPortableVariants + kHopperVariants;
constexpr int kThroughMemory = 64;

// Returns why this variant can't run this product on this device, or ""; only the product's sizes and `gated` are read.
std::string refusal(int variant, const Product& p, int device);

// Returns a reasonable variant for a product that wasn't measured.
int default_variant(const Product& p, int device);

// Returns the number of floats that run() needs in `partials`.
int64_t partial_count(const Product& p, int variant, int device);

// Must be called after devices were reset, as they lose the kernels' attributes.
void forget_devices();

// Launches the kernel on `stream`; throws std::runtime_error if that fails.
void run(const Product& p, bool half, int variant, int device, void* stream);

}  // namespace sparseflow::cuda::skinny
