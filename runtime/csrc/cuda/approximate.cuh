// Activations by the approximate exponential and division, whose errors 16 bits don't show. For many rows they are a good
// part of a layer: GELU by tanhf takes as long for 56 million sums as reading and writing them.
#pragma once

#include "skinny/device.cuh"
#include "skinny/kernel.cuh"

namespace sparseflow::cuda {

__device__ inline float approximate_silu(float v) { return __fdividef(v, 1 + __expf(-v)); }

// (1 + tanh(u)) / 2 is the sigmoid of 2u.
__device__ inline float approximate_gelu_tanh(float v) {
  return __fdividef(v, 1 + __expf(-1.59576912f * (v + 0.044715f * v * v * v)));
}

// The complementary error function by Abramowitz and Stegun, 7.1.26, to 1.5e-7; of positive numbers, so that little is lost of
// small results.
__device__ inline float approximate_gelu(float v) {
  const float z = fabsf(v) * 0.70710678f, t = __fdividef(1.f, 1 + 0.3275911f * z);
  const float series =
      t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float half = 0.5f * series * __expf(-z * z);
  return v * (v < 0 ? half : 1 - half);
}

__device__ inline skinny::Eight activated_approximately(const skinny::Eight& y, Activation activation) {
  switch (activation) {
    case Activation::silu: return skinny::each(y, approximate_silu);
    case Activation::gelu: return skinny::each(y, approximate_gelu);
    case Activation::gelu_tanh: return skinny::each(y, approximate_gelu_tanh);
    case Activation::relu: return skinny::activated(y, Activation::relu);
    default: return y;
  }
}

}  // namespace sparseflow::cuda
