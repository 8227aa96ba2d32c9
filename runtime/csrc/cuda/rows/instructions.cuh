// Instructions that CUDA C++ has no functions for, and types that only it has. emulator.h has the same functions for the host.
#pragma once

#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "../approximate_instructions.cuh"

namespace sparseflow::cuda::rows {

// Lets the next kernel of the stream start, if it was launched to wait by itself for what it reads.
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Eight elements that are read once: they leave the first cache to the scales and the bias, which every row needs.
__device__ inline uint4 fetch_once(const void* from, int64_t at) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(static_cast<const uint16_t*>(from) + at));
  return v;
}

// The greater magnitudes of two pairs of 16 bits, NaN where either is NaN.
template <class T>
__device__ uint32_t larger_pair(uint32_t pair, uint32_t magnitudes) {
  using Pair = std::conditional_t<std::is_same_v<T, skinny::Bf16>, __nv_bfloat162, __half2>;
  const Pair larger = __hmax2_nan(__habs2(reinterpret_cast<const Pair&>(pair)), reinterpret_cast<const Pair&>(magnitudes));
  return reinterpret_cast<const uint32_t&>(larger);
}

// Two numbers in e4m3, the first one low; those beyond its range become the largest.
__device__ inline uint32_t to_e4m3(float first, float second) {
  return __nv_cvt_float2_to_fp8x2({first, second}, __NV_SATFINITE, __NV_E4M3);
}

}  // namespace sparseflow::cuda::rows
