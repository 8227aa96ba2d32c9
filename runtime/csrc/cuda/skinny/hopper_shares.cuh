// How blocks that share the K of a strip add up without a cluster, through memory that stays in the L2.
//
// No block ever waits for another: of two streams' kernels each may have only some of its blocks on the GPU. A strip's
// rows of x are cut into pieces. For each piece a share writes its sums to its tile in `partials` and counts itself in; the
// one that finds all others counted adds up the tiles, in the order of the shares, so that the bits are the same whoever it is.
//
// The counters lie behind the tiles, in memory that holds anything before. Their upper bits say whether it is a counter
// already: HopperCall::tag is random, and a counter that has it was left at none by the launch before.
#pragma once

#include "hopper_device.cuh"
//
#include "hopper.h"
#include "shape.h"

namespace sparseflow::cuda::skinny {

// Floats, of one block; its sums in shared memory and in `partials` lie alike, as [m_rows][sum_pitch].
template <class S>
__device__ inline float* tile_of(const HopperCall& c, int share) {
  return c.p.partials + (int64_t(blockIdx.y) * c.splits + share) * (S::sum_bytes / 4);
}

template <class S>
__device__ inline uint64_t* counter_of(const HopperCall& c, int piece) {
  return reinterpret_cast<uint64_t*>(c.p.partials + int64_t(gridDim.x) * gridDim.y * (S::sum_bytes / 4)) +
         int64_t(blockIdx.y) * c.splits + piece;
}

// As many as there are shares, but none so small that counting takes longer than adding up.
template <class S>
__device__ inline int pieces_of(const HopperCall& c, int rows) {
  constexpr int least = 8192;  // sums of all shares
  return min(c.splits, max(1, c.splits * rows * S::rows / least));
}

__device__ inline int first_of(int piece, int pieces, int rows) { return rows * piece / pieces; }

// Makes counters of what isn't yet; before the block counts itself in.
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

// This share's sums of a piece to memory; whether the others' were all there.
template <class S>
__device__ inline bool hand_in(const HopperCall& c, uint64_t* counter, const float* sums, int first, int end) {
  store_bytes(tile_of<S>(c, blockIdx.x) + first, shared_address(sums + first), 4 * (end - first));
  return others_are_in(c, count(counter));
}

// By one warp: the pieces, a bit each, that this block has to add up. Each share holds another piece back until it has
// handed in the rest: shares that come at the same time add up one each.
template <class S>
__device__ inline uint32_t meet(const HopperCall& c, const float* sums, int pieces, int rows) {
  const int piece = threadIdx.x % 32, held_back = blockIdx.x % pieces;
  const int first = first_of(piece, pieces, rows) * S::sum_pitch, end = first_of(piece + 1, pieces, rows) * S::sum_pitch;
  uint64_t* counter = counter_of<S>(c, piece);
  bool last = false;
  if (piece < pieces && piece != held_back) last = hand_in<S>(c, counter, sums, first, end);
  __syncwarp();
  if (piece == held_back) {
    last = pieces > 1 && others_are_in(c, load_acquiring(counter));  // often; then its sums needn't go through memory
    if (!last) last = hand_in<S>(c, counter, sums, first, end);
  }
  if (last) *counter = c.tag;  // for the next launch
  return __ballot_sync(~0u, last);
}

}  // namespace sparseflow::cuda::skinny
