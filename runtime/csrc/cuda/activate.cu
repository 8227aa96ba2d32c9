#include "activate.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "approximate_instructions.cuh"
//
#include "approximate.cuh"

namespace sparseflow::cuda {
namespace {

constexpr int kThreads = 256;

// A thread has eight neighbours: reading and writing them is all the time there is.
template <class T>
__global__ void __launch_bounds__(kThreads) activate_eights(Activated p) {
  const int64_t at = (blockIdx.x * int64_t(kThreads) + threadIdx.x) * 8;
  if (at >= p.count) return;
  skinny::store_eight<T>(p.y, at, activated_approximately(skinny::load_eight<T>(p.y, at), p.activation));
}

}  // namespace

void activate(const Activated& p, void* stream) {
  if (p.count == 0) return;
  const auto blocks = static_cast<unsigned>((p.count / 8 + kThreads - 1) / kThreads);
  const auto kernel = p.half ? activate_eights<skinny::Fp16> : activate_eights<skinny::Bf16>;
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw std::runtime_error(std::string("sparseflow::linear: its activation did not launch: ") +
                             cudaGetErrorString(error));
}

}  // namespace sparseflow::cuda
