#include "fp8.h"

#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "skinny/device.cuh"
#include "skinny/kernel.cuh"

namespace sparseflow::cuda {
namespace {

using skinny::Bf16, skinny::Fp16, skinny::Eight, skinny::load_eight;

constexpr int kThreads = 256, kManyThreads = 1024;
constexpr float kLargest = 448.f, kSmallestScale = 1.17549435e-38f;

// The maximum, or NaN if either is NaN.
__device__ float larger(float a, float b) { return a > b || isnan(a) ? a : b; }

template <int Threads>
__device__ float largest_of_block(float v) {
  __shared__ float of_warp[Threads / 32];
  for (int step = 16; step; step /= 2) v = larger(v, __shfl_xor_sync(~0u, v, step));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  for (int w = 0; w < Threads / 32; ++w) v = larger(v, of_warp[w]);
  return v;
}

// One block for each row, which is read twice; the second read hits the cache.
template <class T, int Threads>
__global__ void __launch_bounds__(Threads) quantize(Fp8Rows p) {
  const int64_t row = blockIdx.x, first = row * p.k;
  float magnitude = 0;
  for (int64_t i = threadIdx.x * 8; i < p.k; i += Threads * 8) {
    const Eight x = load_eight<T>(p.x, first + i);
#pragma unroll
    for (int j = 0; j < 8; ++j) magnitude = larger(fabsf(x.v[j]), magnitude);
  }
  magnitude = largest_of_block<Threads>(magnitude);
  const float scale = isfinite(magnitude) ? fmaxf(magnitude / kLargest, kSmallestScale) : __int_as_float(0x7fc00000);
  const float factor = 1 / scale;
  if (threadIdx.x == 0) p.scale[row] = scale;
  for (int64_t i = threadIdx.x * 8; i < p.k; i += Threads * 8) {
    const Eight x = load_eight<T>(p.x, first + i);
    uint32_t pairs[4];
#pragma unroll
    for (int j = 0; j < 4; ++j)
      pairs[j] = __nv_cvt_float2_to_fp8x2({x.v[2 * j] * factor, x.v[2 * j + 1] * factor}, __NV_SATFINITE, __NV_E4M3);
    static_cast<uint2*>(p.x8)[(first + i) / 8] = {pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16};
  }
}

// Eight adjacent elements of row m of the product from column n on, scaled back, with their bias.
template <class T>
__device__ Eight scaled_back(const Rescaled& p, int64_t m, int64_t n, float x_scale) {
  const Eight w_scale = skinny::load_floats(p.w_scale + n);
  Eight y = load_eight<Bf16>(p.raw, m * p.n + n);
#pragma unroll
  for (int j = 0; j < 8; ++j) y.v[j] = y.v[j] * w_scale.v[j] * x_scale;
  return p.bias ? y + load_eight<T>(p.bias, n) : y;
}

// A thread computes eight adjacent elements of y at a time.
template <class T>
__global__ void __launch_bounds__(kThreads) finish(Rescaled p) {
  const int64_t ns = p.gated ? p.n / 2 : p.n, across = ns / 8;
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < p.m * across; i += int64_t(gridDim.x) * kThreads) {
    const int64_t m = i / across, n = i % across * 8;
    const float x_scale = p.x_scale[m];
    Eight y = skinny::activated(scaled_back<T>(p, m, n, x_scale), p.activation);
    if (p.gated) {
      const Eight up = scaled_back<T>(p, m, ns + n, x_scale);
#pragma unroll
      for (int j = 0; j < 8; ++j) y.v[j] *= up.v[j];
    } else if (p.residual) {
      y = y + load_eight<T>(p.residual, 8 * i);
    }
    skinny::store_eight<T>(p.y, 8 * i, y);
  }
}

template <class Argument>
void launch(void (*kernel)(Argument), int64_t blocks, int block, const Argument& argument, void* stream) {
  if (blocks == 0) return;
  kernel<<<static_cast<unsigned>(blocks), block, 0, static_cast<cudaStream_t>(stream)>>>(argument);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw std::runtime_error(std::string("sparseflow: scaling for fp8 did not launch: ") + cudaGetErrorString(error));
}

}  // namespace

// With few rows, the time is that of a single block, so long rows get more threads.
void quantize_rows(const Fp8Rows& p, void* stream) {
  if (p.k <= 16 * kThreads) launch(p.half ? quantize<Fp16, kThreads> : quantize<Bf16, kThreads>, p.m, kThreads, p, stream);
  else launch(p.half ? quantize<Fp16, kManyThreads> : quantize<Bf16, kManyThreads>, p.m, kManyThreads, p, stream);
}

void rescale(const Rescaled& p, void* stream) {
  const int64_t blocks = (p.m * (p.n / (p.gated ? 16 : 8)) + kThreads - 1) / kThreads;
  launch(p.half ? finish<Fp16> : finish<Bf16>, std::min<int64_t>(blocks, 1 << 20), kThreads, p, stream);
}

}  // namespace sparseflow::cuda
