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

// As many as there are shares, where that is worth their while.
__device__ inline int pieces_of(const HopperCall& c, int ms) {
  constexpr int rows = 8;
  return min(c.splits, max(1, ms / rows));
}

__device__ inline int first_of(int piece, int pieces, int ms) { return ms * piece / pieces; }

// Makes counters of what isn't yet; before the block counts itself in.
template <class S>
__device__ inline void claim_counters(const HopperCall& c, int pieces) {
  if (const int piece = threadIdx.x % 32; piece < pieces) {
    uint64_t* counter = counter_of<S>(c, piece);
    const uint64_t seen = load_acquiring(counter);
    if ((seen ^ c.tag) >> 8) replace(counter, seen, c.tag);
  }
}

// This share's sums of a piece to memory; whether all others are there.
template <class S>
__device__ inline bool hand_in(const HopperCall& c, const float* sums, int piece, int pieces, int ms) {
  const uint64_t others = c.tag + c.splits - 1;
  uint64_t* counter = counter_of<S>(c, piece);
  const int first = first_of(piece, pieces, ms) * S::sum_pitch, end = first_of(piece + 1, pieces, ms) * S::sum_pitch;
  store_bytes(tile_of<S>(c, blockIdx.x) + first, shared_address(sums + first), 4 * (end - first));
  if (load_acquiring(counter) != others) {  // else nobody will read what is still on its way
    wait_for_stores();
    if (count(counter) != others) return false;
  }
  *counter = c.tag;
  return true;
}

// By one warp: the pieces, a bit each, that this block has to add up. Each share holds another piece back until it has
// handed in the rest: shares that come at the same time add up one each.
template <class S>
__device__ inline uint32_t meet(const HopperCall& c, const float* sums, int pieces, int ms) {
  const int piece = threadIdx.x % 32, held_back = blockIdx.x % pieces;
  bool last = false;
  if (piece < pieces && piece != held_back) last = hand_in<S>(c, sums, piece, pieces, ms);
  __syncwarp();
  if (piece == held_back) last = hand_in<S>(c, sums, piece, pieces, ms);
  return __ballot_sync(~0u, last);
}

}  // namespace sparseflow::cuda::skinny
