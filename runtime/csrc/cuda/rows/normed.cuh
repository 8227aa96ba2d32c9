// One block for each row of a layer norm, with what is added to it before and what scales, shifts and quantises it after.
#pragma once

#include "hold.cuh"
#include "normed.h"

namespace sparseflow::cuda::rows {

constexpr int kNormThreads = 128;

template <int Held>
using Row = Eight[Held];

__device__ inline uint4 sixteen_bytes(const void* from, int64_t at) {
  return *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(from) + at);
}

__device__ inline Eight floats(const uint4& bits) { return load_eight<Bf16>(&bits, 0); }

// The sum over a block. `of_warp` is shared memory that no other call uses.
__device__ inline float sum_of_block(float v, float (&of_warp)[kNormThreads / 32]) {
  for (int step = 16; step; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  v = 0;
  for (const float part : of_warp) v += part;
  return v;
}

// Calls what(h, first column) of the pieces of a row that a thread holds.
template <int Held, class F>
__device__ inline void for_pieces(int64_t k, F what) {
#pragma unroll
  for (int h = 0; h < Held; ++h)
    if (const int64_t i = (h * kNormThreads + threadIdx.x) * 8; i < k) what(h, i);
}

__device__ inline void multiply(Eight& y, const Eight& by) {
#pragma unroll
  for (int j = 0; j < 8; ++j) y.v[j] *= by.v[j];
}

// What is added to the stream, from a product.
__device__ inline Eight added(const NormedRows& p, const uint4& product, int64_t row, int64_t batch, int64_t i) {
  Eight y = floats(product);
  if (p.w_scale) {
    multiply(y, skinny::load_floats(p.w_scale + i));  // W's first: the product may be large
    const float of_x = p.y_scale[row];
    for (float& v : y.v) v *= of_x;
  }
  if (p.y_bias) y = y + load_eight<Bf16>(p.y_bias, i);
  if (p.gate.first) multiply(y, load_eight<Bf16>(p.gate.first, batch * p.gate.stride + i));
  return y;
}

// The stream's row, in the 16 bits in which it is stored.
template <int Held>
__device__ inline void read_row(const NormedRows& p, int64_t row, int64_t batch, Row<Held>& v) {
  uint4 x[Held], product[Held];
  for_pieces<Held>(p.k, [&](int h, int64_t i) {
    x[h] = sixteen_bytes(p.x, row * p.k + i);
    if (p.y) product[h] = sixteen_bytes(p.y, row * p.k + i);
  });
  for_pieces<Held>(p.k, [&](int h, int64_t i) {
    if (p.y) {
      skinny::store_eight<Bf16>(&x[h], 0, floats(x[h]) + added(p, product[h], row, batch, i));
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(p.sum) + row * p.k + i) = x[h];
    }
    v[h] = floats(x[h]);
  });
}

template <int Held>
__device__ inline void normalize(const NormedRows& p, int64_t batch, Row<Held>& v) {
  __shared__ float sums[kNormThreads / 32], squares[kNormThreads / 32];
  float sum = 0, square = 0;
  for_pieces<Held>(p.k, [&](int h, int64_t) {
    for (const float one : v[h].v) sum += one;
  });
  const float mean = sum_of_block(sum, sums) / p.k;
  for_pieces<Held>(p.k, [&](int h, int64_t) {
    for (float& one : v[h].v) one -= mean, square += one * one;
  });
  const float factor = rsqrtf(sum_of_block(square, squares) / p.k + p.eps);
  for_pieces<Held>(p.k, [&](int h, int64_t i) {
    for (float& one : v[h].v) one *= factor;
    if (p.weight) multiply(v[h], load_eight<Bf16>(p.weight, i));
    if (p.bias) v[h] = v[h] + load_eight<Bf16>(p.bias, i);
    if (p.factor.first) multiply(v[h], load_eight<Bf16>(p.factor.first, batch * p.factor.stride + i));
    if (p.shift.first) v[h] = v[h] + load_eight<Bf16>(p.shift.first, batch * p.shift.stride + i);
  });
}

template <int Held>
__device__ inline void write_quantized(const NormedRows& p, int64_t row, const Row<Held>& v) {
  float magnitude = 0;
  for_pieces<Held>(p.k, [&](int h, int64_t) {
    for (const float one : v[h].v) magnitude = larger(fabsf(one), magnitude);
  });
  const Scale scale = scale_of(largest_of_block<kNormThreads>(magnitude));
  if (threadIdx.x == 0) p.scale[row] = scale.of_row;
  for_pieces<Held>(p.k, [&](int h, int64_t i) { store_quantized(p.out, row * p.k + i, v[h], scale.factor); });
}

// One block for each row.
template <int Held, bool Quantizes>
__global__ void __launch_bounds__(kNormThreads) norm_held(NormedRows p) {
  const int64_t row = blockIdx.x, batch = row / p.tokens;
  Row<Held> v;
  read_row<Held>(p, row, batch, v);
  normalize<Held>(p, batch, v);
  if constexpr (Quantizes) write_quantized<Held>(p, row, v);
  else for_pieces<Held>(p.k, [&](int h, int64_t i) { skinny::store_eight<Bf16>(p.out, row * p.k + i, v[h]); });
}

}  // namespace sparseflow::cuda::rows
