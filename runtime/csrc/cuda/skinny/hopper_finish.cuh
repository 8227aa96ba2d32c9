// The end of a block of the kernel for sm_90: from each thread's sums over its share of K to y.
#pragma once

#include "hopper_shares.cuh"
//
#include "kernel.cuh"

namespace sparseflow::cuda::skinny {

// The work of a block. Its strip consists of two halves of S::rows / 2 rows, which are adjacent, or for a gated product
// one of the gate and the corresponding one of up.
struct Strip {
  int row, other;   // the first rows of W of the two halves
  int m;            // the first row of x
  int first, last;  // stages
};

// Writes the sums to shared memory as [m_rows][sum_pitch].
template <class S>
__device__ inline void lay_out_group(const float (&sums)[S::tiles][S::m_tiles][4], float* to) {
  const int warp = threadIdx.x / 32 % 4, group = threadIdx.x / 128, lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < S::tiles; ++t) {
    const int row = (group * S::tiles + t) * 64 + warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < S::m_tiles; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) to[(8 * j + lane % 4 * 2 + i % 2) * S::sum_pitch + row + i / 2 * 8] = sums[t][j][i];
  }
}

// The rows of x that a block adds up and finishes for its strip: the pieces whose bit is set.
struct Part {
  int rows, pieces;
  uint32_t mine;
};

// Calls what(first, end) for the rows of each piece.
template <class F>
__device__ inline void for_each_piece_of(const Part& part, F what) {
  for (uint32_t mine = part.mine; mine; mine &= mine - 1) {
    const int piece = __ffs(mine) - 1;
    what(first_of(piece, part.pieces, part.rows), first_of(piece + 1, part.pieces, part.rows));
  }
}

// Makes the shares' sums of the part available to add_up(). To be called by all threads.
template <class S>
__device__ inline Part meet_shares(const HopperCall& c, int rows, float* sums) {
  if (!c.p.partials) {
    if (c.splits > 1) sync_cluster();
    else __syncthreads();
    return {rows, c.splits, 1u << blockIdx.x};
  }
  publish();
  __syncthreads();
  auto* found = reinterpret_cast<uint32_t*>(sums) + S::sum_bytes / 4;
  const int pieces = pieces_of<S>(c, rows);
  if (threadIdx.x >= 128 * S::groups) {
    const uint32_t mine = meet<S>(c, sums, pieces, rows);
    if (threadIdx.x == 128 * S::groups) *found = mine;
  }
  __syncthreads();
  return {rows, pieces, *found};
}

// Adds the shares' sums of eight adjacent elements at each of `at`, in the order of the shares. All loads are issued
// before the first addition.
template <class S, int Splits, int Batch>
__device__ inline void add_up(const HopperCall& c, const float* sums, const int (&at)[Batch], Eight (&out)[Batch]) {
  const float *parts[Splits], *tiles = c.p.partials ? tile_of<S>(c, 0) : nullptr;
  asm volatile("" : "+l"(sums), "+l"(tiles));  // else the addresses of every case of the switch are kept
#pragma unroll
  for (int s = 0; s < Splits; ++s) {
    if (s == static_cast<int>(blockIdx.x)) parts[s] = sums;
    else parts[s] = tiles ? tiles + s * (S::sum_bytes / 4) : peer(sums, s);
  }
  Eight part[Splits][Batch];
#pragma unroll
  for (int s = 0; s < Splits; ++s)
#pragma unroll
    for (int b = 0; b < Batch; ++b) part[s][b] = load_floats(parts[s] + at[b]);
#pragma unroll
  for (int b = 0; b < Batch; ++b) {
    out[b] = part[0][b];
#pragma unroll
    for (int s = 1; s < Splits; ++s) out[b] = out[b] + part[s][b];
  }
}

template <class S, int Batch>
__device__ inline void add_up_shares(const HopperCall& c, const float* sums, const int (&at)[Batch], Eight (&out)[Batch]) {
  switch (c.splits) {
    case 2: return add_up<S, 2>(c, sums, at, out);
    case 3: return add_up<S, 3>(c, sums, at, out);
    case 4: return add_up<S, 4>(c, sums, at, out);
    case 6: return add_up<S, 6>(c, sums, at, out);
    default: return add_up<S, 8>(c, sums, at, out);
  }
}

// The factors of a block's rows of x by a norm before the product.
__device__ inline float* factors_of(const HopperCall& c) { return reinterpret_cast<float*>(shared_memory() + c.factors); }

// To be called by a warp, once x is there.
__device__ inline void find_factors(const HopperCall& c, int first, int rows) {
  const Product& p = c.p;
  const int parts = p.k / 8;
  for (int row = 0; row < rows; ++row) {
    const float* squares = p.before.squares + int64_t(first + row) * parts;
    float sum = 0;
    for (int i = threadIdx.x % 32; i < parts; i += 32) sum += squares[i];
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) factors_of(c)[row] = rsqrtf(sum / p.k + p.before.eps);
  }
}

template <class T, class S, bool Sharing>
__device__ inline void finish_part(const HopperCall& c, const Strip& strip, const Part& part, const float* sums) {
  // A larger batch would spill registers of the multiplication.
  constexpr int batch = Sharing && S::threads * S::per_sm > 320 ? 1 : 2;
  const Product& p = c.p;
  const int shift = S::across_shift - p.gated, across = 1 << shift, ns = p.gated ? p.n / 2 : p.n;
  const auto add = [&](const int (&at)[batch], Eight (&out)[batch]) {
    if constexpr (Sharing) add_up_shares<S>(c, sums, at, out);
    else
#pragma unroll
      for (int b = 0; b < batch; ++b) out[b] = load_floats(sums + at[b]);
  };
  for_each_piece_of(part, [&](int first, int end) {
    for (int i = first * across + threadIdx.x; i < end * across; i += batch * S::threads) {
      int at[batch];
      Eight sum[batch], gated[batch];
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        const int j = min(i + b * S::threads, end * across - 1);
        at[b] = (j >> shift) * S::sum_pitch + (j & (across - 1)) * 8;
      }
      add(at, sum);
      if (p.gated) {
#pragma unroll
        for (int b = 0; b < batch; ++b) at[b] += S::rows / 2;
        add(at, gated);
      }
#pragma unroll
      for (int b = 0; b < batch; ++b) {
        const int j = i + b * S::threads, m = strip.m + (j >> shift), n = strip.row + (j & (across - 1)) * 8;
        if (j >= end * across || n >= ns) continue;
        const float factor = p.before.squares ? factors_of(c)[m - strip.m] : 1;
        if (p.gated) finish_gated<T, S::e4m3>(p, sum[b], gated[b], m, n, factor);
        else finish<T, S::e4m3>(p, sum[b], m, n, factor);
      }
    }
  });
}

}  // namespace sparseflow::cuda::skinny
