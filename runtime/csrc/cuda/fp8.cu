#include "fp8.h"

#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "approximate.cuh"
#include "skinny/device.cuh"
#include "skinny/kernel.cuh"

namespace sparseflow::cuda {
namespace {

using skinny::Bf16, skinny::Fp16, skinny::Eight, skinny::load_eight;

constexpr int kThreads = 256, kManyThreads = 1024;
constexpr int kMostHeld = 8;            // pieces of a row that a thread holds: up to 8 · 8 · 256 elements a row
constexpr int64_t kBlocks = 132 * 16;   // about so many blocks fill the largest GPUs
constexpr int64_t kMostRowsEach = 8, kMostBlocksDown = 65535;
constexpr float kLargest = 448.f, kSmallestScale = 1.17549435e-38f;

// Lets the next kernel of the stream start, if it was launched to wait by itself for what it reads.
__device__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

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

struct Scale {
  float factor, of_row;
};

__device__ Scale scale_of(float magnitude) {
  const float scale = isfinite(magnitude) ? fmaxf(magnitude / kLargest, kSmallestScale) : __int_as_float(0x7fc00000);
  return {1 / scale, scale};
}

__device__ float largest_of(const Eight& x, float magnitude) {
#pragma unroll
  for (int j = 0; j < 8; ++j) magnitude = larger(fabsf(x.v[j]), magnitude);
  return magnitude;
}

__device__ void store_quantized(const Fp8Rows& p, int64_t at, const Eight& x, float factor) {
  uint32_t pairs[4];
#pragma unroll
  for (int j = 0; j < 4; ++j)
    pairs[j] = __nv_cvt_float2_to_fp8x2({x.v[2 * j] * factor, x.v[2 * j + 1] * factor}, __NV_SATFINITE, __NV_E4M3);
  static_cast<uint2*>(p.x8)[at / 8] = {pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16};
}

// One block for each row, whose threads hold it: it is read once, all of a thread's loads at a time.
template <class T, int Held>
__global__ void __launch_bounds__(kThreads) quantize_held(Fp8Rows p) {
  let_next_start();
  const int64_t first = blockIdx.x * p.k;
  uint4 held[Held] = {};
#pragma unroll
  for (int h = 0; h < Held; ++h)
    if (const int64_t i = (h * kThreads + threadIdx.x) * 8; i < p.k)
      held[h] = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(p.x) + first + i);
  float magnitude = 0;
#pragma unroll
  for (int h = 0; h < Held; ++h) magnitude = largest_of(load_eight<T>(&held[h], 0), magnitude);
  const Scale scale = scale_of(largest_of_block<kThreads>(magnitude));
  if (threadIdx.x == 0) p.scale[blockIdx.x] = scale.of_row;
#pragma unroll
  for (int h = 0; h < Held; ++h)
    if (const int64_t i = (h * kThreads + threadIdx.x) * 8; i < p.k)
      store_quantized(p, first + i, load_eight<T>(&held[h], 0), scale.factor);
}

// The same for rows of any length, which are read twice; the second read hits the cache.
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
    store_quantized(p, first + i, load_eight<T>(p.x, first + i), scale.factor);
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

template <class Argument>
void launch(void (*kernel)(Argument), dim3 blocks, int block, const Argument& argument, void* stream) {
  kernel<<<blocks, block, 0, static_cast<cudaStream_t>(stream)>>>(argument);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw std::runtime_error(std::string("sparseflow: scaling for fp8 did not launch: ") + cudaGetErrorString(error));
}

template <class T>
void quantize_by_length(const Fp8Rows& p, void* stream) {
  const int64_t pieces = (p.k + 8 * kThreads - 1) / (8 * kThreads);
  const dim3 rows(static_cast<unsigned>(p.m));
  if (pieces <= 2) launch(quantize_held<T, 2>, rows, kThreads, p, stream);
  else if (pieces <= 4) launch(quantize_held<T, 4>, rows, kThreads, p, stream);
  else if (pieces <= kMostHeld) launch(quantize_held<T, kMostHeld>, rows, kThreads, p, stream);
  else launch(quantize<T>, rows, kManyThreads, p, stream);
}

template <class T>
void finish_by_shape(const Rescaled& p, void* stream) {
  const int64_t ns = p.gated ? p.n / 2 : p.n, across = (ns / 8 + kThreads - 1) / kThreads;
  const int64_t each = std::clamp<int64_t>(p.m * across / kBlocks, 1, kMostRowsEach);
  const dim3 blocks(static_cast<unsigned>(across),
                    static_cast<unsigned>(std::min((p.m + each - 1) / each, kMostBlocksDown)));
  launch(p.gated ? finish<T, true> : finish<T, false>, blocks, kThreads, p, stream);
}

}  // namespace

void quantize_rows(const Fp8Rows& p, void* stream) {
  if (p.m == 0) return;
  p.half ? quantize_by_length<Fp16>(p, stream) : quantize_by_length<Bf16>(p, stream);
}

void rescale(const Rescaled& p, void* stream) {
  if (p.m == 0 || p.n == 0) return;
  p.half ? finish_by_shape<Fp16>(p, stream) : finish_by_shape<Bf16>(p, stream);
}

}  // namespace sparseflow::cuda
