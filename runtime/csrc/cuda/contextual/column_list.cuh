// The list of a block's kept inputs, in shared memory. Its code is short on purpose: every block runs it once, and fetching
// instructions takes longer than running them. Include it after marks.cuh.
#pragma once

#include "column.h"
#include "marks.cuh"

namespace sparseflow::cuda::contextual {

// Each of the blocks of a row of the grid takes as many kept inputs, ± 1.
struct Share {
  int first, length;

  __device__ explicit Share(int kept) {
    const unsigned blocks = gridDim.x, rank = blockIdx.x, each = unsigned(kept) / blocks, more = unsigned(kept) % blocks;
    first = static_cast<int>(each * rank + min(rank, more));
    length = static_cast<int>(each + (rank < more));
  }
};

// The kept inputs of a block in ascending order, each with its values in the rows of x.
template <int Rows>
struct KeptList {
  uint16_t *values, *inputs;  // [room][Rows], [room]

  __device__ KeptList(uint8_t* memory, int room)
      : values(reinterpret_cast<uint16_t*>(memory)), inputs(values + room * Rows) {}
};

// Up to a multiple of 16.
template <int Rows>
SPARSEFLOW_BOTH constexpr int list_bytes(int room) { return (room * 2 * (Rows + 1) + 15) / 16 * 16; }

// Returns a bit for each of eight inputs that is kept: bit i for input 2i, bit 16 + i for input 2i + 1. The magnitudes of
// 16-bit floats are ordered as their bits are, NaN above all.
__device__ inline uint32_t kept_of(const uint4& x, uint32_t limit) {
  const auto flags = [&](uint32_t two) { return ((two | 0x80008000u) - limit) & 0x80008000u; };
  return flags(x.x) >> 15 | flags(x.y) >> 14 | flags(x.z) >> 13 | flags(x.w) >> 12;
}

// x in shared memory, by pieces of eight inputs.
template <int Rows>
struct Staged {
  const Columns& p;
  const uint4* x;

  __device__ uint32_t kept(int piece) const {
    uint32_t bits = 0;
#pragma unroll
    for (int r = 0; r < Rows; ++r)
      if (r < p.m) bits |= kept_of(x[r * p.pieces + piece], p.limit);
    const int there = p.k - piece * 8;  // the last piece may be short
    return there >= 8 ? bits : bits & ((1u << (there + 1) / 2) - 1 | ((1u << there / 2) - 1) << 16);
  }

  // The value of input i of a piece in a row, 0 if it is below the threshold.
  __device__ uint16_t value(int piece, int r, int i) const {
    const uint16_t v = reinterpret_cast<const uint16_t*>(x + r * p.pieces + piece)[i];
    return Rows == 1 || (v & 0x7fffu) >= (p.limit & 0xffffu) ? v : 0;
  }
};

// Fills the list and returns its length. To be called by all threads; `memory` holds x meanwhile.
template <int Threads, int Rows>
__device__ inline int list_kept(const Columns& p, const KeptList<Rows>& list, uint8_t* memory) {
  auto* x = reinterpret_cast<uint4*>(memory);
#pragma unroll 4
  for (int i = threadIdx.x; i < p.pieces * p.m; i += Threads) x[i] = static_cast<const uint4*>(p.x)[i];
  __syncthreads();
  const Staged<Rows> staged{p, x};
  const int each = (p.pieces + Threads - 1) / Threads | 1;  // odd, so that lanes read different banks
  const int begin = threadIdx.x * each, end = min(begin + each, p.pieces);
  int mine = 0;
#pragma unroll 1
  for (int piece = begin; piece < end; ++piece) mine += __popc(staged.kept(piece));
  int total = 0;
  int at = sum_before<Threads>(mine, total);
  const Share share(total);
  at -= share.first;
#pragma unroll 1
  for (int piece = begin; piece < end; ++piece) {
    const uint32_t kept = staged.kept(piece);
    if (at + __popc(kept) <= 0 || at >= share.length) {  // of other blocks
      at += __popc(kept);
      continue;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const bool keeps = kept >> (i / 2 + i % 2 * 16) & 1;
      if (keeps && unsigned(at) < unsigned(share.length)) {
        list.inputs[at] = static_cast<uint16_t>(piece * 8 + i);
#pragma unroll
        for (int r = 0; r < Rows; ++r) list.values[at * Rows + r] = r < p.m ? staged.value(piece, r, i) : 0;
      }
      at += keeps;
    }
  }
  __syncthreads();
  return share.length;
}

}  // namespace sparseflow::cuda::contextual
