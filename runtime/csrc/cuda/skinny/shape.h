// How a thread block divides its work, for host and device.
//
// The unit of K is a block of 64: 32 kept values of a row of W, two tiles of positions for 64 rows (layout.h), and 128
// bytes of a row of x. A stage is what the pipeline loads at once: `blocks` units of `rows` rows of W, their positions,
// and of 8 · m_tiles rows of x.
#pragma once

#include <cstdint>

#include "../layout.h"

namespace sparseflow::cuda::skinny {

// The shape of a block. A warp has `tiles` × 16 rows of W. `row_warps` warps cover the rows of the strip, and `k_warps`
// warps take turns in the units of a stage. `per_sm` is the number of blocks that should fit on a multiprocessor.
template <int Tiles, int RowWarps, int KWarps, int Blocks, int PerSm, int MTiles>
struct Shape {
  static constexpr int tiles = Tiles, row_warps = RowWarps, k_warps = KWarps, blocks = Blocks, per_sm = PerSm;
  static constexpr int m_tiles = MTiles;
  static constexpr int rows = 16 * tiles * row_warps;
  static constexpr int m_rows = 8 * m_tiles;
  static constexpr int threads = 32 * row_warps * k_warps;

  static constexpr int value_pitch = 64 * blocks;  // bytes of a row in a stage
  static constexpr int x_pitch = 128 * blocks;
  static constexpr int value_bytes = rows * value_pitch;
  static constexpr int place_bytes = rows / 64 * blocks * 512;
  static constexpr int x_bytes = m_rows * x_pitch;
  static constexpr int stage_bytes = value_bytes + place_bytes + x_bytes;

  // At the end, shared memory holds the sums as [k_warps][m_rows][sum_pitch] floats; the 4 puts the lanes of a quad on
  // different banks.
  static constexpr int sum_pitch = rows + 4;
  static constexpr int sum_bytes = k_warps * m_rows * sum_pitch * 4;

  static_assert(rows % 64 == 0 && blocks % k_warps == 0);
  static_assert(threads / (4 * blocks) % 8 == 0 && rows % (threads / (4 * blocks)) == 0);
};

// Returns where piece `c`, of 16 bytes, is stored in a stage's row, so that the eight rows that ldmatrix reads at once
// are on different banks.
template <int Pitch>
SPARSEFLOW_BOTH constexpr int swizzled(int row, int c) {
  return Pitch == 64 ? c ^ (row >> 1 & 3) : c ^ (row & 7);
}

// `mma.sp` m16n8k32 expects a lane's register to hold the positions of four groups, for row `low` in its low half and
// for row low + 8 in its high half. The layout's 8 bytes for these two rows have group c in byte 2 · (c & 3) + (c >>
// 2), with the low nibble for row `low` and the high one for the other. `upper` selects groups 4 … 7.
#ifdef __CUDA_ARCH__
__device__ inline uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
  return __byte_perm(a, b, selector);
}
#else
inline uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = a | uint64_t(b) << 32;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) out |= uint32_t(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return out;
}
#endif

SPARSEFLOW_BOTH inline uint32_t metadata(uint32_t first, uint32_t second, bool upper) {
  const uint32_t pairs = byte_permute(first, second, upper ? 0x7531 : 0x6420);
  const uint32_t low = pairs & 0x0f0f0f0f, high = pairs >> 4 & 0x0f0f0f0f;
  return byte_permute(low | low >> 4, high | high >> 4, 0x6420);
}

}  // namespace sparseflow::cuda::skinny
