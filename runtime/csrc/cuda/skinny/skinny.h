// y [M, N] = x [M, K] · Wᵀ for few rows of x, where reading W is all the time there is: W 2:4 in the layout of CUDA
// (../layout.h), x bf16 or fp16, W the same or e4m3 with a scale for each row, sums in fp32, K a multiple of 64, N of 8,
// any M (made for 1 … 64; beyond, W is read once for every 64 rows of x).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "../../common/types.h"

namespace sparseflow::cuda::skinny {

// A root-mean-square norm of x that the product's end completes: x is what it should be but for a factor of its row,
// 1 / sqrt(sum of squares / K + eps). Without `squares` there is none.
struct NormBefore {
  const float* squares;  // [M, K/8], parts of the sum of squares
  float eps;
};

// A root-mean-square norm of y that the next product completes. Without `weight` there is none.
struct NormAfter {
  const void* weight;  // [N]
  void* x;             // [M, N]: y ⊙ weight, of y as it is stored
  float* squares;      // [M, N/8]: of each eight elements of y
};

// y = activation(x · Wᵀ + bias) + residual, or with `gated` y = activation(g) ⊙ u, [M, N/2], for the halves g and u of
// x · Wᵀ + bias. All pointers on the device, aligned to 16 bytes; values as [N, K/2] and positions as in layout.h; x [M, K],
// y and residual [M, N], bias [N], all contiguous and of one dtype. Values in e4m3 must be finite.
struct Product {
  const void* values;
  const void* positions;
  const void* x;
  const void* bias;      // or null
  const void* residual;  // or null; null where gated
  int n, k, m;
  Activation activation;
  bool gated = false;
  bool e4m3 = false;               // the values; else of x's dtype
  const float* scales = nullptr;   // of e4m3, what row of W [N] is multiplied by; or null
  void* y = nullptr;
  float* partials = nullptr;  // partial_count() floats, or null where that is 0
  NormBefore before{};
  NormAfter after{};
};

// Rows that the product takes with a norm before it; the kernel for sm_90 alone does.
constexpr int kMostNormedRows = 32;

// A variant is a shape of the thread blocks and the number of blocks that share the K of a strip. The first
// `kPortableVariants` run from sm_80 on (kernel.cuh), the others on sm_90 (hopper.cuh). The shares' sums are added
// through the shared memory of a cluster, or through `partials`: in most variants for sm_90 from 52 on, on GPUs without
// clusters, and if `kThroughMemory` is added to a portable variant. The order is fixed, so the same input gives the
// same bits.
constexpr int kPortableVariants = 16, kHopperVariants = 45, kVariants = kPortableVariants + kHopperVariants;
constexpr int kThroughMemory = 64;

// Why this variant can't run on this device for this product, or ""; of the product only sizes, `gated` and `e4m3` are
// read.
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
