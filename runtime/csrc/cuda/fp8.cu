#include "rows/instructions.cuh"
//
#include <algorithm>

#include "approximate.cuh"
#include "fp8.h"
#include "rows/launch.cuh"

namespace sparseflow::cuda {
namespace {

using namespace rows;

constexpr int kManyThreads = 1024;
constexpr int64_t kBlocks = 132 * 16;   // about so many blocks fill the largest GPUs
constexpr int64_t kMostRowsEach = 8, kMostBlocksDown = 65535;

// Rows that are quantised as they are.
struct Rows {
  using Fetched = uint4;
  const uint16_t* x;
  int64_t k;

  __device__ uint4 fetch(int64_t row, int64_t i) const { return *reinterpret_cast<const uint4*>(x + row * k + i); }
  __device__ uint4 made(const uint4& fetched, int64_t, int64_t) const { return fetched; }
};

__device__ float largest_of(const Eight& x, float magnitude) {
#pragma unroll
  for (int j = 0; j < 8; ++j) magnitude = larger(fabsf(x.v[j]), magnitude);
  return magnitude;
}

// Quantises rows of any length, which are read twice; the second read hits the cache.
template <class T>
__global__ void __launch_bounds__(kManyThreads) quantize(Fp8Rows p) {
  let_next_start();
  const int64_t first = blockIdx.x * p.k;
  float magnitude = 0;
  for (int64_t i = threadIdx.x * 8; i < p.k; i += kManyThreads * 8)
    magnitude = largest_of(load_eight<T>(p.x, first + i), magnitude);
  const Scale scale = scale_of(largest_of_block<kManyThreads>(magnitude));
  if (threadIdx.x == 0) p.scale[blockIdx.x] = scale.of_row;
  for (int64_t i = threadIdx.x * 8; i < p.k; i += kManyThreads * 8)
    store_quantized(p.x8, first + i, load_eight<T>(p.x, first + i), scale.factor);
}

// Eight adjacent elements of row m of the product from column n on, scaled back, with their bias.
template <class T>
__device__ Eight scaled_back(const Rescaled& p, int64_t m, int64_t n, const Eight& w_scale, float x_scale) {
  Eight y = load_eight<Bf16>(p.raw, m * p.n + n);
#pragma unroll
  for (int j = 0; j < 8; ++j) y.v[j] = y.v[j] * w_scale.v[j] * x_scale;
  return p.bias ? y + load_eight<T>(p.bias, n) : y;
}

// A thread computes eight adjacent elements of y in several rows.
template <class T, bool Gated>
__global__ void __launch_bounds__(kThreads) finish(Rescaled p) {
  const int64_t ns = Gated ? p.n / 2 : p.n, n = (blockIdx.x * int64_t(kThreads) + threadIdx.x) * 8;
  if (n >= ns) return;
  const Eight scale = skinny::load_floats(p.w_scale + n);
  const Eight up_scale = skinny::load_floats(p.w_scale + (Gated ? ns : 0) + n);
  for (int64_t m = blockIdx.y; m < p.m; m += gridDim.y) {
    const float x_scale = p.x_scale[m];
    Eight y = activated_approximately(scaled_back<T>(p, m, n, scale, x_scale), p.activation);
    if constexpr (Gated) {
      const Eight up = scaled_back<T>(p, m, ns + n, up_scale, x_scale);
#pragma unroll
      for (int j = 0; j < 8; ++j) y.v[j] *= up.v[j];
    } else if (p.residual) {
      y = y + load_eight<T>(p.residual, m * ns + n);
    }
    skinny::store_eight<T>(p.y, m * ns + n, y);
  }
}

template <class T>
void quantize_rows_of(const Fp8Rows& p, void* stream) {
  if (pieces_of(p.k) > kMostHeld) launch(quantize<T>, dim3(static_cast<unsigned>(p.m)), kManyThreads, stream, p);
  else quantize_by_length<T>(Rows{static_cast<const uint16_t*>(p.x), p.k}, p.m, {p.k, p.x8, p.scale}, stream);
}

template <class T>
void finish_by_shape(const Rescaled& p, void* stream) {
  const int64_t ns = p.gated ? p.n / 2 : p.n, across = (ns / 8 + kThreads - 1) / kThreads;
  const int64_t each = std::clamp<int64_t>(p.m * across / kBlocks, 1, kMostRowsEach);
  const dim3 blocks(static_cast<unsigned>(across),
                    static_cast<unsigned>(std::min((p.m + each - 1) / each, kMostBlocksDown)));
  launch(p.gated ? finish<T, true> : finish<T, false>, blocks, kThreads, stream, p);
}

}  // namespace

void quantize_rows(const Fp8Rows& p, void* stream) {
  if (p.m == 0) return;
  p.half ? quantize_rows_of<Fp16>(p, stream) : quantize_rows_of<Bf16>(p, stream);
}

void rescale(const Rescaled& p, void* stream) {
  if (p.m == 0 || p.n == 0) return;
  p.half ? finish_by_shape<Fp16>(p, stream) : finish_by_shape<Bf16>(p, stream);
}

}  // namespace sparseflow::cuda
