// What the kernels share that quantise rows: a row's scale, and the kernel whose threads hold a row. instructions.cuh or
// emulator.h comes before it.
#pragma once

#include <cstdint>

#include "../skinny/kernel.cuh"

namespace sparseflow::cuda::rows {

using skinny::Bf16, skinny::Fp16, skinny::Eight, skinny::load_eight;

constexpr int kThreads = 256;
constexpr int kMostHeld = 8;  // pieces of a row that a thread holds: up to 8 · 8 · 256 elements a row
constexpr float kLargest = 448.f, kSmallestScale = 1.17549435e-38f;

// The maximum, or NaN if either is NaN.
__device__ inline float larger(float a, float b) { return a > b || isnan(a) ? a : b; }

template <int Threads>
__device__ float largest_of_block(float v) {
  __shared__ float of_warp[Threads / 32];
  for (int step = 16; step; step /= 2) v = larger(v, __shfl_xor_sync(~0u, v, step));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  for (int w = 0; w < Threads / 32; ++w) v = larger(v, of_warp[w]);
  return v;
}

struct Scale {
  float factor, of_row;
};

__device__ inline Scale scale_of(float magnitude) {
  const float scale = isfinite(magnitude) ? fmaxf(magnitude / kLargest, kSmallestScale) : __int_as_float(0x7fc00000);
  return {1 / scale, scale};
}

template <class T>
__device__ uint32_t larger_pairs(const uint4& eight, uint32_t magnitudes) {
  for (const uint32_t pair : {eight.x, eight.y, eight.z, eight.w}) magnitudes = larger_pair<T>(pair, magnitudes);
  return magnitudes;
}

template <class T>
__device__ float larger_of_pair(uint32_t pair) {
  return larger(skinny::to_float<T>(static_cast<uint16_t>(pair)), skinny::to_float<T>(static_cast<uint16_t>(pair >> 16)));
}

__device__ inline void store_quantized(void* x8, int64_t at, const Eight& x, float factor) {
  uint32_t pairs[4];
#pragma unroll
  for (int j = 0; j < 4; ++j)
    pairs[j] = to_e4m3(x.v[2 * j] * factor, x.v[2 * j + 1] * factor);
  static_cast<uint2*>(x8)[at / 8] = {pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16};
}

// Where quantised rows go: x8 [m, k] and scale [m].
struct Quantized {
  int64_t k;
  void* x8;
  float* scale;
};

// One block for each row, whose threads hold it in 16 bits: what it is made of is read once, all of a thread's loads at a time.
// A source has `Fetched`, eight elements as they are read; `fetch`, of a row from a column on; `made`, what is quantised of them.
template <class T, int Held, class Source>
__global__ void __launch_bounds__(kThreads) quantize_held(Source source, Quantized to) {
  let_next_start();
  const int64_t row = blockIdx.x;
  typename Source::Fetched fetched[Held];
#pragma unroll
  for (int h = 0; h < Held; ++h)
    if (const int64_t i = (h * kThreads + threadIdx.x) * 8; i < to.k) fetched[h] = source.fetch(row, i);
  uint4 held[Held] = {};
  uint32_t magnitudes = 0;
#pragma unroll
  for (int h = 0; h < Held; ++h)
    if (const int64_t i = (h * kThreads + threadIdx.x) * 8; i < to.k) {
      held[h] = source.made(fetched[h], row, i);
      magnitudes = larger_pairs<T>(held[h], magnitudes);
    }
  const Scale scale = scale_of(largest_of_block<kThreads>(larger_of_pair<T>(magnitudes)));
  if (threadIdx.x == 0) to.scale[row] = scale.of_row;
#pragma unroll
  for (int h = 0; h < Held; ++h)
    if (const int64_t i = (h * kThreads + threadIdx.x) * 8; i < to.k)
      store_quantized(to.x8, row * to.k + i, load_eight<T>(&held[h], 0), scale.factor);
}

// Pieces of a row for each thread; more than kMostHeld aren't held.
inline int64_t pieces_of(int64_t k) { return (k + 8 * kThreads - 1) / (8 * kThreads); }

}  // namespace sparseflow::cuda::rows
