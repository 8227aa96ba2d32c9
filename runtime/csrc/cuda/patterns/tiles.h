// Weights between the portable form, that of tile.h, and dense.
#pragma once

#include <cstdint>

#include "tile.h"

namespace sparseflow::cuda::patterns {

// All pointers are on the device; elements have 16 bits. The portable form has values [N, kept · blocks] and codes
// [N, bytes of a row], low bits first. Kernels are launched on `stream` and not waited for.
void to_tiles(const Extent& extent, const uint16_t* values, const uint8_t* codes, uint8_t* tiles, void* stream);
void to_portable(const Extent& extent, const uint8_t* tiles, uint16_t* values, uint8_t* codes, void* stream);
// `dense` is [N, K].
void to_dense(const Extent& extent, const uint8_t* tiles, uint16_t* dense, void* stream);

}  // namespace sparseflow::cuda::patterns
