// How blocks that share the K of a strip add their sums without a cluster, through memory that stays in the L2.
//
// No block may wait for another, because the kernels of two streams may each have only some of their blocks on the GPU.
// A strip's rows of x are cut into pieces. For each piece a share writes its sums to its tile in `partials` and
// increments the piece's counter. The last share adds up the tiles in the order of the shares, so that the result
// doesn't depend on which one is last.
//
// The counters follow the tiles, in uninitialised memory. Their upper bits tell whether a word is a counter already: it
// then holds the random HopperCall::tag, and its count is 0, as the previous launch left it.
#pragma once

#include "hopper_device.cuh"
//
#include "hopper.h"
#include "shape.h"

namespace sparseflow::cuda::skinny {

// The floats of one block's tile. Sums have the same layout in shared memory and in `partials`, [m_rows][sum_pitch].
template <class S>
__device__ inline float* tile_of(const HopperCall& c, int share) {
  return c.p.partials + (int64_t(blockIdx.y) * c.splits + share) * (S::sum_bytes / 4);
}

template <class S>
__device__ inline uint64_t* counter_of(const HopperCall& c, int piece) {
  return reinterpret_cast<uint64_t*>(c.p.partials + int64_t(gridDim.x) * gridDim.y * (S::sum_bytes / 4)) +
         int64_t(blockIdx.y) * c.splits + piece;
}

// As many pieces as shares, but none so small that counting takes longer than adding.
template <class S>
__device__ inline int pieces_of(const HopperCall& c, int rows) {
  constexpr int least = 8192;  // sums of all shares
  return min(c.splits, max(1, c.splits * rows * S::rows / least));
}

__device__ inline int first_of(int piece, int pieces, int rows) { return rows * piece / pieces; }

// Initialises words that aren't counters yet; must run before the block increments them.
template <class S>
__device__ inline void claim_counters(const HopperCall& c, int pieces) {
  if (const int piece = threadIdx.x % 32; piece < pieces) {
    uint64_t* counter = counter_of<S>(c, piece);
    const uint64_t seen = load_acquiring(counter);
    if ((seen ^ c.tag) >> 8) replace(counter, seen, c.tag);
  }
}

__device__ inline bool others_are_in(const HopperCall& c, uint64_t counted) {
  return counted == c.tag + c.splits - 1;
}

// Writes this share's sums of a piece to memory; returns whether those of all others were there.
template <class S>
__device__ inline bool hand_in(const HopperCall& c, uint64_t* counter, const float* sums, int first, int end) {
  store_bytes(tile_of<S>(c, blockIdx.x) + first, shared_address(sums + first), 4 * (end - first));
  return others_are_in(c, count(counter));
}

// Returns the pieces that this block must add up, a bit each; run by one warp. Each share keeps one piece, a different
// one, until it has written the others, so that shares that arrive at the same time add up one piece each.
template <class S>
__device__ inline uint32_t meet(const HopperCall& c, const float* sums, int pieces, int rows) {
  const int piece = threadIdx.x % 32, held_back = blockIdx.x % pieces;
  const int first = first_of(piece, pieces, rows) * S::sum_pitch, end = first_of(piece + 1, pieces, rows) * S::sum_pitch;
  uint64_t* counter = counter_of<S>(c, piece);
  bool last = false;
  if (piece < pieces && piece != held_back) last = hand_in<S>(c, counter, sums, first, end);
  __syncwarp();
  if (piece == held_back) {
    last = pieces > 1 && others_are_in(c, load_acquiring(counter));  // frequent; saves writing the sums to memory
    if (!last) last = hand_in<S>(c, counter, sums, first, end);
  }
  if (last) *counter = c.tag;  // for the next launch
  return __ballot_sync(~0u, last);
}

}  // namespace sparseflow::cuda::skinny
