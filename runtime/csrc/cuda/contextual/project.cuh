// x · Wᵀ in fp32 for few rows of x, for the two factors of a predictor.
#pragma once

#include "elements.cuh"

namespace sparseflow::cuda::contextual {

constexpr int kProjectThreads = 128;

// The pieces that a thread loads at once: 8 threads load a row of 576, the usual rank for 14336 neurons.
template <class W, int Lanes>
constexpr int kPiecesAhead = Lanes == 8 && bytes_of<W> < 4 ? 9 : 5;

// Sums over the `Lanes` threads that share a row of W; the first of them gets the result.
template <int Lanes>
__device__ inline float sum_of_row(float v) {
  if constexpr (Lanes <= 32) return sum_of_lanes<Lanes>(v);
  __shared__ float of_warp[kProjectThreads / 32];
  v = sum_of_lanes<32>(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kProjectThreads / 32; ++w) sum += of_warp[w];
  return sum;
}

// Writes a mark for each of the block's rows of W, which are half a word. To be called by all threads, 8 for each row.
__device__ inline void mark_rows(const Projection& p, bool chosen) {
  __shared__ uint32_t of_warp[kProjectThreads / 32];
  const uint32_t seen = __ballot_sync(~0u, chosen);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = seen;
  __syncthreads();
  if (threadIdx.x > 0) return;
  uint32_t half = 0;
#pragma unroll
  for (int row = 0; row < kProjectThreads / 8; ++row) half |= (of_warp[row / 4] >> row % 4 * 8 & 1) << row;
  auto* halves = reinterpret_cast<uint16_t*>(p.marks);
  halves[blockIdx.x] = static_cast<uint16_t>(half);
  if (blockIdx.x % 2 == 0 && blockIdx.x + 1 == gridDim.x) halves[blockIdx.x + 1] = 0;
}

// `Lanes` threads (8, or the whole block) share a row of W and multiply it with `Rows` rows of x at a time.
template <class W, class X, int Lanes, int Rows, bool Wide>
__global__ void __launch_bounds__(kProjectThreads) multiply(const Projection p) {
  const int n = blockIdx.x * (kProjectThreads / Lanes) + threadIdx.x / Lanes, lane = threadIdx.x % Lanes;
  const int64_t first = int64_t(min(n, p.n - 1)) * p.k;
  constexpr int ahead = kPiecesAhead<W, Lanes>;
  Piece<W> w[ahead];
  const auto load_from = [&](int from) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int k = from + (i * Lanes + lane) * 8;
      w[i] = load<W, Wide>(p.weight, first + k, p.k - k);
    }
  };
  if (!p.early) wait_for_previous();
  load_from(0);
  wait_for_previous();
  let_next_start();
  bool chosen = false;
  for (int m = 0; m < p.m; m += Rows) {
    float sums[Rows] = {};
    for (int from = 0; from < p.k; from += ahead * Lanes * 8) {
      if (m + from > 0) load_from(from);
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const int k = from + (i * Lanes + lane) * 8;
        const Eight wide = widened<W>(w[i]);
#pragma unroll
        for (int r = 0; r < Rows; ++r) {
          const int64_t at = int64_t(min(m + r, p.m - 1)) * p.k + k;
          sums[r] = dot(widened<X>(load_shared<X, Wide>(p.x, at, p.k - k)), wide, sums[r]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      float sum = sum_of_row<Lanes>(sums[r]);
      if (lane > 0 || n >= p.n || m + r >= p.m) continue;
      if (p.scale) sum *= p.scale[n];
      if (p.bias) sum += p.bias[n];
      if (!p.marks) p.out[int64_t(m + r) * p.n + n] = sum;
      else if (!(sum <= p.limit)) chosen = true;
    }
  }
  if constexpr (Lanes == 8)
    if (p.marks) mark_rows(p, chosen);
}

}  // namespace sparseflow::cuda::contextual
