// Instructions that CUDA C++ has no functions for. emulator.h has the same functions for the host.
#pragma once

#include "../skinny/device.cuh"

namespace sparseflow::cuda::contextual {

// Loads 16 bytes of a weight, which is read once: it bypasses the first-level cache, so that x stays there, and fetches
// whole lines of the second-level cache.
__device__ inline uint4 stream16(const void* from) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

__device__ inline uint2 stream8(const void* from) {
  uint2 v;
  asm volatile("ld.global.L1::no_allocate.L2::256B.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from) : "memory");
  return v;
}

// Widens two adjacent e4m3, the low one first.
__device__ inline float2 widen_e4m3(uint16_t two) {
#if __CUDA_ARCH__ >= 890
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(two));
  return __half22float2(reinterpret_cast<const __half2&>(halves));
#else
  const auto widened = [](uint32_t v) { return __uint_as_float((v & 0x80u) << 24 | (v & 0x7fu) << 20) * 0x1p120f; };
  return {widened(two & 0xffu), widened(two >> 8)};
#endif
}

// Waits until the previous launch is done and its writes are visible. Every kernel does so before it writes anything or
// lets the next one start. All launches before the previous one are therefore done even before this wait.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next launch start; its blocks then wait in wait_for_previous().
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// All threads of the cluster meet, in two steps; orders shared memory among them.
__device__ inline void arrive_at_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ inline void wait_for_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// The place of `mine` in the shared memory of block `rank` of the cluster.
__device__ inline float* peer_of(float* mine, int rank) { return const_cast<float*>(skinny::peer(mine, rank)); }

// Whether this block is the last of `blocks` to arrive here; the others' writes to global memory are then visible.
__device__ inline bool last_to_come(uint32_t* ticket, uint32_t blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(ticket, 1u) == blocks - 1;
  __syncthreads();
  __threadfence();
  return last;
}

// Loads past the first-level cache, which may hold a stale value.
template <class T>
__device__ inline T written_by_others(const T* from) {
  return __ldcg(from);
}

}  // namespace sparseflow::cuda::contextual
