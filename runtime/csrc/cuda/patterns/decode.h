// y [M, N] = x [M, K] · Wᵀ for few rows of x, where reading W is all the time there is: W in tiles (tile.h), x and W both
// bf16 or both fp16, sums in fp32, K and N multiples of 8, any M (made for 1 … 64; beyond, W is read once for every 64 rows).
#pragma once

#include <cstdint>
#include <string>

#include "../skinny/skinny.h"

namespace sparseflow::cuda::patterns {

// As ../skinny/skinny.h says, but `values` holds the tiles and `partials` scratch_bytes() bytes, or is null where that is
// 0. `positions` isn't read. N of a gated product is a multiple of 128.
using skinny::Product;

// A variant is a shape of the thread blocks. All give the same bits for the same input on the same GPU.
constexpr int kVariants = 3;

// Why this variant can't run on this device for this product in blocks of `block` columns, or ""; of the product only
// sizes and `gated` are read.
std::string refusal(int variant, const Product& p, int block, int device);

// Returns a reasonable variant for a product that wasn't measured.
int default_variant(const Product& p, int block, int device);

int64_t scratch_bytes(int variant, const Product& p, int block, int device);

// Must be called after devices were reset, as they lose the kernels' attributes.
void forget_devices();

// Launches the kernel on `stream`; throws std::runtime_error if that fails.
void run(int variant, const Product& p, int block, bool half, int device, void* stream);

}  // namespace sparseflow::cuda::patterns
