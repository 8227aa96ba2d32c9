// What the kernels need beside CUDA C++. emulator.h has the same functions for the host.
#pragma once

#include "../skinny/device.cuh"

namespace sparseflow::cuda::contextual {

// Weights stream by: they should leave the first-level cache to x, and come as whole lines of the second.
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

// Waits until the launch before this one is done and its writes are seen. Every kernel does so before it writes anything
// or lets the next one start, so what lies before that launch is done then, and is even before this one waits.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next launch take its places and wait there.
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether this block is the last of `blocks` that come here; the others' writes to global memory are then seen.
__device__ inline bool last_to_come(uint32_t* ticket, uint32_t blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(ticket, 1u) == blocks - 1;
  __syncthreads();
  __threadfence();
  return last;
}

// Past the first-level cache, which may hold what was there before.
template <class T>
__device__ inline T written_by_others(const T* from) {
  return __ldcg(from);
}

}  // namespace sparseflow::cuda::contextual
