// The layout of a packed weight on CUDA. N and K are padded with zeros to multiples of 64. One buffer holds the values
// as in the portable form ([N, K/2], row by row), and then the positions: the same nibbles p0 |
// p1 << 2, in the order of the tensor cores. This is byte for byte what cusparseLtSpMMACompress2 writes on sm_90 for
// the padded weight, which is checked against the library at run time, so that cuSPARSELt, the decompression and our
// other kernels all read one copy.
//
// The positions are tiles of 64 rows × 8 groups (for elements of 16 bits and more) or × 16 groups (of 8 bits); the tiles
// of a strip of rows are adjacent. Within a tile, a nibble's index is a permutation of the bits of its row and group.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SPARSEFLOW_BOTH __host__ __device__
#else
#define SPARSEFLOW_BOTH
#endif

namespace sparseflow::cuda {

struct Layout {
  int64_t n, k;  // of the weight itself
  int element_size;

  SPARSEFLOW_BOTH int64_t padded_n() const { return (n + 63) / 64 * 64; }
  SPARSEFLOW_BOTH int64_t padded_k() const { return (k + 63) / 64 * 64; }
  SPARSEFLOW_BOTH int64_t value_bytes() const { return padded_n() * padded_k() / 2 * element_size; }

  SPARSEFLOW_BOTH int64_t groups() const { return (k + 3) / 4; }
  SPARSEFLOW_BOTH int tile_groups() const { return element_size == 1 ? 16 : 8; }
  SPARSEFLOW_BOTH int64_t tiles_across() const { return padded_k() / 4 / tile_groups(); }
  SPARSEFLOW_BOTH int64_t position_bytes() const { return padded_n() / 64 * tiles_across() * 32 * tile_groups(); }

  // Index of the nibble of row r, group g.
  SPARSEFLOW_BOTH int64_t nibble(int64_t r, int64_t g) const {
    const int64_t tile = (r >> 6) * tiles_across() + g / tile_groups();
    const int row = r & 63, low = row & 7, mid = row >> 3 & 1, high = row >> 4;
    if (element_size == 1) {
      const int c = g & 15;
      return tile << 10 | high << 8 | low << 5 | (c >> 1 & 3) << 3 | (c >> 3) << 2 | mid << 1 | (c & 1);
    }
    const int c = g & 7;
    return tile << 9 | high << 7 | low << 4 | (c & 3) << 2 | (c >> 2) << 1 | mid;
  }
};

// Whether the kernels below were built; without nvcc at build time they throw.
bool kernels_built();

// All pointers are on the device. Kernels are launched on `stream` and not waited for.
void to_device_positions(const Layout& layout, const uint8_t* portable, uint8_t* positions, void* stream);
void to_portable_positions(const Layout& layout, const uint8_t* positions, uint8_t* portable, void* stream);
// `pitch` is the number of elements from one row of values to the next; the padding of values isn't read.
void decompress(const Layout& layout, const void* values, int64_t pitch, const uint8_t* positions, void* dense,
                void* stream);

}  // namespace sparseflow::cuda
