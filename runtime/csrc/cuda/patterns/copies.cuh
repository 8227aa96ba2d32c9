// How a ring in shared memory is filled: W from sm_90 on by the copy engine, before as x is, by asynchronous copies of 16
// bytes. A slot's barrier `full` completes when all of them have arrived.
#pragma once

#include "../skinny/device.cuh"
#include "../skinny/hopper_device.cuh"

namespace sparseflow::cuda::patterns {

using skinny::Shared;

// Arrives once the copies of 16 bytes that this thread issued have.
__device__ inline void arrive_after_copies(Shared barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

#if __CUDA_ARCH__ >= 900

constexpr int kWeightLanes = 1;

__device__ inline void wait_until(Shared barrier, uint32_t parity) { skinny::wait_for(barrier, parity); }

// Copies pieces of `bytes` to addresses that lie as far apart; called by one lane.
template <int Pieces>
__device__ inline void copy_weight(Shared to, const uint8_t* const (&from)[Pieces], int count, int bytes, Shared full, uint64_t policy) {
  skinny::arrive_expecting(full, count * bytes);
#pragma unroll
  for (int i = 0; i < Pieces; ++i)
    if (i < count) skinny::copy_bytes(to + i * bytes, from[i], bytes, full, policy);
}

__device__ inline void wait_for_previous_kernel() { skinny::wait_for_previous(); }
__device__ inline void let_next_kernel_start() { skinny::let_next_start(); }

#else

constexpr int kWeightLanes = 32;

__device__ inline void wait_until(Shared barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done)
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
}

// The same, called by all lanes of a warp.
template <int Pieces>
__device__ inline void copy_weight(Shared to, const uint8_t* const (&from)[Pieces], int count, int bytes, Shared full, uint64_t policy) {
#pragma unroll
  for (int i = 0; i < Pieces; ++i)
    if (i < count)
      for (int at = threadIdx.x % 32 * 16; at < bytes; at += 512) skinny::copy(to + i * bytes + at, from[i] + at, policy);
  arrive_after_copies(full);
}

__device__ inline void wait_for_previous_kernel() {}
__device__ inline void let_next_kernel_start() {}

#endif

}  // namespace sparseflow::cuda::patterns
