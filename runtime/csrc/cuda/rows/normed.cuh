// Layer norms of rows that a block holds, with what is added before and what scales, shifts and quantises the result.
#pragma once

#include "hold.cuh"
#include "normed.h"

namespace sparseflow::cuda::rows {

constexpr int kMostThreads = 512, kMostWarps = kMostThreads / 32;

// Calls what(h, first column) of the pieces of a row that a thread holds.
template <int Held, class F>
__device__ inline void for_pieces(int64_t k, F what) {
#pragma unroll
  for (int h = 0; h < Held; ++h)
    if (const int64_t i = (h * blockDim.x + threadIdx.x) * 8; i < k) what(h, i);
}

// What is read of a row: one row ahead, while the one before it is summed up.
template <int Held>
struct Fetched {
  uint4 x[Held], product[Held];
  float of_product;

  __device__ void fetch(const NormedRows& p, int64_t row) {
    for_pieces<Held>(p.k, [&](int h, int64_t i) {
      x[h] = fetch_once(p.x, row * p.k + i);
      if (p.y) product[h] = fetch_once(p.y, row * p.k + i);
    });
    of_product = p.y_scale ? p.y_scale[row] : 1;
  }
};

__device__ inline void multiply(Eight& y, const Eight& by) {
#pragma unroll
  for (int j = 0; j < 8; ++j) y.v[j] *= by.v[j];
}

// `both` of all numbers of a block. `of_warp` may be that of the call before the last: the barrier since has let all read it.
template <class F>
__device__ inline float over_block(float v, float (&of_warp)[kMostWarps], F both) {
  for (int step = 16; step; step /= 2) v = both(v, __shfl_xor_sync(~0u, v, step));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  v = of_warp[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) v = both(v, of_warp[w]);
  return v;
}

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

struct Larger {
  __device__ float operator()(float a, float b) const { return larger(a, b); }
};

// What is added to the stream, from a product.
__device__ inline Eight added(const NormedRows& p, const uint4& product, float of_product, int64_t batch, int64_t i) {
  Eight y = load_eight<Bf16>(&product, 0);
  if (p.w_scale) {
    multiply(y, skinny::load_floats(p.w_scale + i));  // W's first: the product may be large
    for (float& v : y.v) v *= of_product;
  }
  if (p.y_bias) y = y + load_eight<Bf16>(p.y_bias, i);
  if (p.gate.first) multiply(y, load_eight<Bf16>(p.gate.first, batch * p.gate.stride + i));
  return y;
}

// The stream's row, in the 16 bits in which it is stored.
template <int Held>
__device__ inline void add(const NormedRows& p, int64_t row, int64_t batch, const Fetched<Held>& read, Eight (&v)[Held]) {
  for_pieces<Held>(p.k, [&](int h, int64_t i) {
    uint4 x = read.x[h];
    if (p.y) {
      skinny::store_eight<Bf16>(&x, 0, load_eight<Bf16>(&x, 0) + added(p, read.product[h], read.of_product, batch, i));
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p.sum) + row * p.k + i) = x;
    }
    v[h] = load_eight<Bf16>(&x, 0);
  });
}

template <int Held>
__device__ inline void normalize(const NormedRows& p, int64_t batch, Eight (&v)[Held]) {
  __shared__ float sums[kMostWarps], squares[kMostWarps];
  float sum = 0, square = 0;
  for_pieces<Held>(p.k, [&](int h, int64_t) {
    for (const float one : v[h].v) sum += one;
  });
  const float mean = over_block(sum, sums, Sum{}) / p.k;
  for_pieces<Held>(p.k, [&](int h, int64_t) {
    for (float& one : v[h].v) one -= mean, square += one * one;
  });
  const float factor = rsqrtf(over_block(square, squares, Sum{}) / p.k + p.eps);
  for_pieces<Held>(p.k, [&](int h, int64_t i) {
    for (float& one : v[h].v) one *= factor;
    if (p.weight) multiply(v[h], load_eight<Bf16>(p.weight, i));
    if (p.bias) v[h] = v[h] + load_eight<Bf16>(p.bias, i);
    if (p.factor.first) multiply(v[h], load_eight<Bf16>(p.factor.first, batch * p.factor.stride + i));
    if (p.shift.first) v[h] = v[h] + load_eight<Bf16>(p.shift.first, batch * p.shift.stride + i);
  });
}

template <int Held>
__device__ inline void write_quantized(const NormedRows& p, int64_t row, const Eight (&v)[Held]) {
  __shared__ float magnitudes[kMostWarps];
  float magnitude = 0;
  for_pieces<Held>(p.k, [&](int h, int64_t) {
    for (const float one : v[h].v) magnitude = larger(fabsf(one), magnitude);
  });
  const Scale scale = scale_of(over_block(magnitude, magnitudes, Larger{}));
  if (threadIdx.x == 0) p.scale[row] = scale.of_row;
  for_pieces<Held>(p.k, [&](int h, int64_t i) { store_quantized(p.out, row * p.k + i, v[h], scale.factor); });
}

// Each block takes `rows` rows, one after the other. What is around them stays in the first cache, which rows leave to it.
template <int Held, bool Quantizes>
__global__ void __launch_bounds__(kMostThreads) norm_held(NormedRows p, int64_t rows) {
  const int64_t first = blockIdx.x * rows, end = min(first + rows, p.m);
  int64_t batch = first / p.tokens, end_of_batch = (batch + 1) * p.tokens;
  Fetched<Held> next;
  next.fetch(p, first);
  for (int64_t row = first; row < end; ++row) {
    const Fetched<Held> read = next;
    if (row + 1 < end) next.fetch(p, row + 1);
    if (row == end_of_batch) ++batch, end_of_batch += p.tokens;
    Eight v[Held];
    add(p, row, batch, read, v);
    normalize(p, batch, v);
    if constexpr (Quantizes) write_quantized(p, row, v);
    else for_pieces<Held>(p.k, [&](int h, int64_t i) { skinny::store_eight<Bf16>(p.out, row * p.k + i, v[h]); });
  }
}

}  // namespace sparseflow::cuda::rows
