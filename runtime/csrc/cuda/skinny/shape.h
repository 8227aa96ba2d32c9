// How a thread block divides its work, for host and device.
//
// The unit of K is a block of 64: of a row of W 32 kept values, of 64 rows 512 bytes of positions (layout.h), of a row
// of x 128 bytes. A stage is what the pipeline loads at once: `blocks` such units of `rows` rows of W, their
// positions, and of 8 · m_tiles rows of x.
#pragma once

#include <cstdint>

#include "../layout.h"

namespace sparseflow::cuda::skinny {

// What a block of threads does: `tiles` × 16 rows of W a warp, `row_warps` warps below each other, and as many beside
// each other (`k_warps`) that take turns in the units of a stage. `per_sm`: how many should fit a multiprocessor.
// `e4m3`: W is that, else of x's type.
template <int Tiles, int RowWarps, int KWarps, int Blocks, int PerSm, int MTiles, bool E4m3 = false>
struct Shape {
  static constexpr bool e4m3 = E4m3;
  static constexpr int tiles = Tiles, row_warps = RowWarps, k_warps = KWarps, blocks = Blocks, per_sm = PerSm;
  static constexpr int m_tiles = MTiles;
  static constexpr int rows = 16 * tiles * row_warps;
  static constexpr int m_rows = 8 * m_tiles;
  static constexpr int threads = 32 * row_warps * k_warps;

  static constexpr int unit_bytes = e4m3 ? 32 : 64;  // of a row's values
  static constexpr int value_pitch = unit_bytes * blocks;  // bytes of a row in a stage
  static constexpr int x_pitch = 128 * blocks;
  static constexpr int value_bytes = rows * value_pitch;
  static constexpr int position_bytes = rows / 64 * blocks * 512;
  static constexpr int x_bytes = m_rows * x_pitch;
  static constexpr int stage_bytes = value_bytes + position_bytes + x_bytes;

  // At the end, shared memory holds the sums as [k_warps][m_rows][sum_pitch] floats; the 4 puts the lanes of a quad on
  // different banks.
  static constexpr int sum_pitch = rows + 4;
  static constexpr int sum_bytes = k_warps * m_rows * sum_pitch * 4;

  static_assert(rows % 64 == 0 && blocks % k_warps == 0);
  static_assert(threads / (value_pitch / 16) % 8 == 0 && rows % (threads / (value_pitch / 16)) == 0);
};

// The piece of 16 bytes of a stage's row where piece `c` is kept, so that the eight rows that are read at once lie on
// different banks. It is what the copy engine does to boxes that are `Pitch` bytes wide.
template <int Pitch>
SPARSEFLOW_BOTH constexpr int swizzled(int row, int c) {
  return Pitch == 32 ? c ^ (row >> 2 & 1) : Pitch == 64 ? c ^ (row >> 1 & 3) : c ^ (row & 7);
}

// `mma.sp` m16n8k32 expects a lane's register to hold the positions of four groups, for row `low` in its low half and
// for row low + 8 in its high half. The layout's 8 bytes for these two rows have group c in byte 2 · (c & 3) + (c >>
// 2), with the low nibble for row `low` and the high one for the other. `upper` selects groups 4 … 7.
#ifdef __CUDA_ARCH__
// `prmt`: with the fourth bit of its selector a byte is its sign, eight times.
__device__ inline uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t out;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(selector));
  return out;
}
#else
inline uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = a | uint64_t(b) << 32;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t of = selector >> 4 * i, byte = both >> 8 * (of & 7) & 255;
    out |= (of & 8 ? byte >> 7 ? 255 : 0 : byte) << 8 * i;
  }
  return out;
}
#endif

SPARSEFLOW_BOTH inline uint32_t metadata(uint32_t first, uint32_t second, bool upper) {
  const uint32_t pairs = byte_permute(first, second, upper ? 0x7531 : 0x6420);
  const uint32_t low = pairs & 0x0f0f0f0f, high = pairs >> 4 & 0x0f0f0f0f;
  return byte_permute(low | low >> 4, high | high >> 4, 0x6420);
}

// The same from the layout of 8-bit values, whose bytes hold two groups of one row: of the 16 bytes for the two rows
// those from 8 · upper on, for the first or the second 32 in K.
SPARSEFLOW_BOTH inline uint32_t metadata_8(uint32_t first, uint32_t second, bool second_step) {
  return byte_permute(first, second, second_step ? 0x7362 : 0x5140);
}

}  // namespace sparseflow::cuda::skinny
