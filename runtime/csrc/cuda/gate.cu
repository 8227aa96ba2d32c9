#include "gate.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "skinny/device.cuh"
#include "skinny/kernel.cuh"

namespace sparseflow::cuda {
namespace {

using skinny::Bf16, skinny::Fp16, skinny::load_eight;

constexpr int kThreads = 128;
constexpr int64_t kMostBlocksDown = 65535;

// The first of a thread's `count` neighbours in every row.
__device__ int64_t first_column(int count) { return (blockIdx.x * int64_t(kThreads) + threadIdx.x) * count; }

template <class T>
__global__ void __launch_bounds__(kThreads) gate_eights(Gated p) {
  const int64_t n = first_column(8);
  if (n >= p.n) return;
  skinny::Product of{};
  of.n = static_cast<int>(2 * p.n);
  of.activation = p.activation;
  of.y = p.y;
  for (int64_t m = blockIdx.y; m < p.m; m += gridDim.y) {
    const int64_t gate = 2 * m * p.n + n;
    skinny::finish_gated<T, false>(of, load_eight<T>(p.whole, gate), load_eight<T>(p.whole, gate + p.n), static_cast<int>(m),
                            static_cast<int>(n));
  }
}

// T is the type of a 16-bit element, which Element only stores; it has no effect on float.
template <class T, class Element>
__global__ void __launch_bounds__(kThreads) gate_ones(Gated p) {
  const int64_t n = first_column(1);
  if (n >= p.n) return;
  for (int64_t m = blockIdx.y; m < p.m; m += gridDim.y) {
    const Element* gate = static_cast<const Element*>(p.whole) + 2 * m * p.n + n;
    Element* y = static_cast<Element*>(p.y) + m * p.n + n;
    if constexpr (std::is_same_v<Element, float>) *y = skinny::activated(gate[0], p.activation) * gate[p.n];
    else *y = skinny::from_float<T>(skinny::activated(skinny::to_float<T>(gate[0]), p.activation) *
                                    skinny::to_float<T>(gate[p.n]));
  }
}

void launch(void (*kernel)(Gated), int64_t columns, const Gated& p, void* stream) {
  const dim3 blocks(static_cast<unsigned>((columns + kThreads - 1) / kThreads),
                    static_cast<unsigned>(std::min(p.m, kMostBlocksDown)));
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw std::runtime_error(std::string("sparseflow::linear: its gate did not launch: ") + cudaGetErrorString(error));
}

// Works on 16 bytes at a time if every row is aligned to 16 bytes.
template <class T>
void launch_half(const Gated& p, void* stream) {
  if (p.n % 8) launch(gate_ones<T, uint16_t>, p.n, p, stream);
  else launch(gate_eights<T>, p.n / 8, p, stream);
}

}  // namespace

void apply_gate(const Gated& p, void* stream) {
  if (p.m == 0 || p.n == 0) return;
  switch (p.dtype) {
    case DType::f32: return launch(gate_ones<void, float>, p.n, p, stream);
    case DType::bf16: return launch_half<Bf16>(p, stream);
    case DType::f16: return launch_half<Fp16>(p, stream);
  }
}

}  // namespace sparseflow::cuda
