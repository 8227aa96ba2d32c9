// Instructions that CUDA C++ has no functions for, of approximate.cuh. rows/emulator.h has the same functions for the host.
#pragma once

#include "skinny/device.cuh"

namespace sparseflow::cuda {

__device__ inline float approximate_power_of_two(float v) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(v));
  return y;
}

__device__ inline float approximate_reciprocal(float v) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(v));
  return y;
}

}  // namespace sparseflow::cuda
