// Rows copied to slots, a warp a row. After elements.cuh.
#pragma once

#include "elements.cuh"

namespace sparseflow::cuda::contextual {

constexpr int kFetchThreads = 256;

// Eight reads of 16 bytes are on their way before the first is written.
__device__ inline void copy_wide(const uint4* from, uint4* to, int64_t count) {
  constexpr int ahead = 8;
  for (int64_t first = threadIdx.x % 32; first < count; first += ahead * 32) {
    uint4 held[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (first + i * 32 < count) held[i] = from[first + i * 32];
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (first + i * 32 < count) to[first + i * 32] = held[i];
  }
}

__global__ void __launch_bounds__(kFetchThreads) fetch_rows(const Fetch p) {
  wait_for_previous();
  let_next_start();
  const int count = min(max(*p.count, 0), p.most), warps = kFetchThreads / 32;
  const bool wide = (reinterpret_cast<uintptr_t>(p.from) | reinterpret_cast<uintptr_t>(p.to) | p.bytes) % 16 == 0;
  for (int i = blockIdx.x * warps + threadIdx.x / 32; i < count; i += gridDim.x * warps) {
    const auto* from = static_cast<const uint8_t*>(p.from) + p.neurons[i] * p.bytes;
    auto* to = static_cast<uint8_t*>(p.to) + p.slots[i] * p.bytes;
    if (wide) copy_wide(reinterpret_cast<const uint4*>(from), reinterpret_cast<uint4*>(to), p.bytes / 16);
    else
      for (int64_t b = threadIdx.x % 32; b < p.bytes; b += 32) to[b] = from[b];
  }
}

}  // namespace sparseflow::cuda::contextual
