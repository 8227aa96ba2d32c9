// W in shared memory to registers, as mma.sp and sparse wgmma want 16 rows × 32 in K of it, whose fragments are the same.
//
// W in e4m3 is brought to x's type: all of its numbers are in bf16 and in fp16. Of a step a lane needs four pairs of
// neighbouring values, that is 2 bytes each of pieces that other lanes need the rest of: it loads the 4 bytes around
// them, which costs no more of the memory than loading two. Then for a pair, in 16 bits each:
//   prmt   s s s s s s s s s e e e e m m m   the byte, its sign before it
//   shl    by 4 (bf16) or 7 (fp16), so that the mantissa ends where x's type has it
//   and    s 0 0 0 0 e e e e m m m 0 0 0 0   or  s 0 e e e e m m m 0 0 0 0 0 0 0
//   mul    by 2¹²⁰ or 2⁸, the difference of the exponents' biases: exact, and right for subnormal numbers too
// Four instructions a pair, of which prmt and and are the ALU's, shl and mul can be the FMA's. The multiplication can't
// wait for the sums: 2⁻¹²⁰ times x would be below what fp32 holds. cvt.f16x2.e4m3x2 is one instruction for fp16, but
// from there to bf16 are three more for a pair, and it is there from sm_89 on only.
#pragma once

#include "shape.h"

namespace sparseflow::cuda::skinny {

// A pair of e4m3 that `selector` takes from `word`, as two of T.
template <class T>
__device__ inline uint32_t widened(uint32_t word, uint32_t selector) {
  constexpr bool bf16 = std::is_same_v<T, Bf16>;
  constexpr uint32_t mask = bf16 ? 0x87f087f0 : 0xbf80bf80, factor = bf16 ? 0x7b807b80 : 0x5c005c00;
  return multiply_pair<T>(byte_permute(word, 0, selector) << (bf16 ? 4 : 7) & mask, factor);
}

// The 16 rows that lie S::value_pitch apart from `rows` on, the 32 in K that are the `step`th of the stage.
template <class T, class S>
__device__ inline void load_fragment(uint32_t (&w)[4], Shared rows, int step) {
  const int lane = threadIdx.x % 32;
  if constexpr (S::e4m3) {
    const int row = lane / 4, piece = swizzled<S::value_pitch>(row, step);
    const Shared from = rows + row * S::value_pitch + piece * 16 + (lane >> 1 & 1) * 4;
    const uint32_t words[4] = {load4(from), load4(from + 8 * S::value_pitch), load4(from + 8),
                               load4(from + 8 * S::value_pitch + 8)};
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = widened<T>(words[i], lane & 1 ? 0xb3a2 : 0x9180);
  } else {
    const int row = lane % 16;
    load_matrices(w, rows + row * S::value_pitch + swizzled<S::value_pitch>(row, step * 2 + lane / 16) * 16);
  }
}

// The positions of 16 rows, the `quarter`th of the 64 whose 512 bytes for a unit of K lie at `piece`. Lanes 0 and 1 of each
// four hold those of the unit's first step, 2 and 3 those of its second.
template <class S>
__device__ inline uint32_t load_metadata(Shared piece, int quarter) {
  const int lane = threadIdx.x % 32, row = lane >> 2;
  if constexpr (S::e4m3) {
    const uint2 word = load8(piece + quarter * 128 + row * 16 + (lane & 1) * 8);
    return metadata_8(word.x, word.y, lane >> 1 & 1);
  } else {
    const uint2 word = load8(piece + (lane >> 1 & 1) * 256 + quarter * 64 + row * 8);
    return metadata(word.x, word.y, lane & 1);
  }
}

}  // namespace sparseflow::cuda::skinny
