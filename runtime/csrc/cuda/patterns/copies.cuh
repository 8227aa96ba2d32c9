// How a ring in shared memory is filled: from sm_90 on by the copy engine, before by asynchronous copies of 16 bytes. One
// warp issues them; a slot's barrier `full` completes when they have arrived.
#pragma once

#include "../skinny/device.cuh"
#include "../skinny/hopper_device.cuh"

namespace sparseflow::cuda::patterns {

using skinny::Shared;

#if __CUDA_ARCH__ >= 900

constexpr int kFullArrivals = 1;

__device__ inline void wait_until(Shared barrier, uint32_t parity) { skinny::wait_for(barrier, parity); }

// Begins a slot of which `bytes` will be copied; the lanes' own writes to it come before.
__device__ inline void begin_slot(Shared full, int bytes) {
  skinny::publish();
  __syncwarp();
  if (threadIdx.x % 32 == 0) skinny::arrive_expecting(full, bytes);
  __syncwarp();
}

// Copies a piece of W; called by the whole warp.
__device__ inline void copy_piece(Shared to, const uint8_t* from, int bytes, Shared full, uint64_t policy) {
  if (threadIdx.x % 32 == 0) skinny::copy_bytes(to, from, bytes, full, policy);
}

// Copies a part of a row of x; called by one lane.
__device__ inline void copy_row(Shared to, const uint8_t* from, int bytes, Shared full, uint64_t policy) {
  skinny::copy_bytes(to, from, bytes, full, policy);
}

__device__ inline void end_slot(Shared) {}

__device__ inline void wait_for_previous_kernel() { skinny::wait_for_previous(); }
__device__ inline void let_next_kernel_start() { skinny::let_next_start(); }
__device__ inline uint64_t keep_in_l2() { return skinny::read_often(); }

#else

constexpr int kFullArrivals = 64;

__device__ inline void wait_until(Shared barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done)
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
}

__device__ inline void begin_slot(Shared, int) {}

__device__ inline void copy_piece(Shared to, const uint8_t* from, int bytes, Shared, uint64_t policy) {
  for (int at = threadIdx.x % 32 * 16; at < bytes; at += 512) skinny::copy(to + at, from + at, policy);
}

__device__ inline void copy_row(Shared to, const uint8_t* from, int bytes, Shared, uint64_t) {
  for (int at = 0; at < bytes; at += 16) skinny::copy_or_zero(to + at, from + at, true);
}

// Every lane arrives for its own writes, and once its copies have arrived.
__device__ inline void end_slot(Shared full) {
  skinny::arrive(full);
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(full) : "memory");
}

__device__ inline void wait_for_previous_kernel() {}
__device__ inline void let_next_kernel_start() {}
__device__ inline uint64_t keep_in_l2() { return 0; }

#endif

}  // namespace sparseflow::cuda::patterns
