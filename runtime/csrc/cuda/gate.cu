#include "gate.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "skinny/device.cuh"
#include "skinny/kernel.cuh"

namespace sparseflow::cuda {
namespace {

using skinny::Bf16, skinny::Fp16;
struct Fp32 {};

constexpr int threads = 128;
constexpr int64_t most_blocks_down = 65535;

template <class T>
using Element = std::conditional_t<std::is_same_v<T, Fp32>, float, uint16_t>;

template <class T>
__device__ float widened(Element<T> v) {
  if constexpr (std::is_same_v<T, Fp32>) return v;
  else return skinny::to_float<T>(v);
}

template <class T>
__device__ Element<T> rounded(float v) {
  if constexpr (std::is_same_v<T, Fp32>) return v;
  else return skinny::from_float<T>(v);
}

// What a thread reads and writes at once.
template <class T, int Count>
struct alignas(Count * sizeof(Element<T>)) Neighbours {
  Element<T> v[Count];
};

template <class T, int Count>
__global__ void __launch_bounds__(threads) apply(Gated p) {
  using Some = Neighbours<T, Count>;
  const int64_t n = (blockIdx.x * int64_t(threads) + threadIdx.x) * Count;
  if (n >= p.n) return;
  for (int64_t m = blockIdx.y; m < p.m; m += gridDim.y) {
    const auto* gate = static_cast<const Element<T>*>(p.whole) + 2 * m * p.n + n;
    const Some g = *reinterpret_cast<const Some*>(gate), u = *reinterpret_cast<const Some*>(gate + p.n);
    Some y;
#pragma unroll
    for (int i = 0; i < Count; ++i)
      y.v[i] = rounded<T>(skinny::activated(widened<T>(g.v[i]), p.epilogue) * widened<T>(u.v[i]));
    *reinterpret_cast<Some*>(static_cast<Element<T>*>(p.y) + m * p.n + n) = y;
  }
}

// 16 bytes at a time where every row starts at a multiple of that, else an element.
template <class T>
void launch(const Gated& p, void* stream) {
  constexpr int most = 16 / sizeof(Element<T>);
  const int count = p.n % most ? 1 : most;
  const int64_t across = (p.n / count + threads - 1) / threads;
  const dim3 blocks(static_cast<unsigned>(across), static_cast<unsigned>(std::min(p.m, most_blocks_down)));
  (count == 1 ? apply<T, 1> : apply<T, most>)<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(p);
}

}  // namespace

void apply_gate(const Gated& p, void* stream) {
  if (p.m == 0 || p.n == 0) return;
  switch (p.dtype) {
    case cpu::DType::f32: launch<Fp32>(p, stream); break;
    case cpu::DType::bf16: launch<Bf16>(p, stream); break;
    case cpu::DType::f16: launch<Fp16>(p, stream); break;
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw std::runtime_error(std::string("sparseflow::linear: its gate did not launch: ") + cudaGetErrorString(error));
}

}  // namespace sparseflow::cuda
