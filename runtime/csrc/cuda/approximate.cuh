// Activations by the approximate exponential and reciprocal, whose errors 16 bits don't show. For many rows they are a good
// part of a layer: GELU by tanhf takes as long for 56 million sums as reading and writing them. So every instruction counts:
// the numbers below hold that exponentials are powers of two, and neither function looks for numbers below 2^-126, which
// are 0 beside the 1 that is added.
#pragma once

#include "skinny/kernel.cuh"

namespace sparseflow::cuda {

constexpr float kLog2OfE = 1.44269504f;

__device__ inline float approximate_silu(float v) {
  return v * approximate_reciprocal(1 + approximate_power_of_two(-kLog2OfE * v));
}

// (1 + tanh(u)) / 2 is the sigmoid of 2u = 1.59576912 · (v + 0.044715 · v³).
__device__ inline float approximate_gelu_tanh(float v) {
  constexpr float linear = -1.59576912f * kLog2OfE, cubic = 0.044715f * linear;
  return v * approximate_reciprocal(1 + approximate_power_of_two(v * (linear + cubic * (v * v))));
}

// The complementary error function by Abramowitz and Stegun, 7.1.26, to 1.5e-7; of positive numbers, so that little is lost of
// small results.
__device__ inline float approximate_gelu(float v) {
  const float z = fabsf(v) * 0.70710678f, t = approximate_reciprocal(1 + 0.3275911f * z);
  const float half_series =
      t * (0.127414796f + t * (-0.142248368f + t * (0.710706871f + t * (-0.726576014f + t * 0.530702715f))));
  const float half = half_series * approximate_power_of_two(-kLog2OfE * z * z);
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
