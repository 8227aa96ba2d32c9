// What lies between two products in fp8, in one kernel that holds a row: the first one's scales, bias, activation and gate, and
// the second one's quantising. Between the kernels of a compiled program that would be reading the product once or twice and
// computing its activation as often.
#pragma once

#include "../approximate.cuh"
#include "../fp8.h"
#include "hold.cuh"

namespace sparseflow::cuda::rows {

// The end of a layer whose product is scaled here, in bf16, or was scaled by its kernel, in T.
template <class T, bool Scaled>
struct Ends {
  Requantized p;

  __device__ Eight end(const uint4& product, int64_t row, int64_t n) const {
    if constexpr (!Scaled) return with_bias(load_eight<T>(&product, 0), n);
    Eight y = load_eight<Bf16>(&product, 0);
    const Eight of_w = skinny::load_floats(p.w_scale + n);
    const float of_x = p.x_scale[row];
#pragma unroll
    for (int j = 0; j < 8; ++j) y.v[j] = y.v[j] * of_w.v[j] * of_x;  // W's first: raw may be large
    return with_bias(y, n);
  }

  __device__ Eight with_bias(const Eight& y, int64_t n) const { return p.bias ? y + load_eight<T>(p.bias, n) : y; }
};

template <class T>
__device__ uint4 in_16_bits(const Eight& y) {
  uint4 held;
  skinny::store_eight<T>(&held, 0, y);
  return held;
}

template <class T, bool Scaled>
struct Activated : Ends<T, Scaled> {
  using Fetched = uint4;

  __device__ uint4 fetch(int64_t row, int64_t n) const { return fetch_once(this->p.raw, row * this->p.n + n); }
  __device__ uint4 made(const uint4& product, int64_t row, int64_t n) const {
    return in_16_bits<T>(activated_approximately(this->end(product, row, n), this->p.activation));
  }
};

template <class T, bool Scaled>
struct Gate : Ends<T, Scaled> {
  struct Fetched {
    uint4 gate, up;
  };

  __device__ Fetched fetch(int64_t row, int64_t n) const {
    const int64_t at = row * this->p.n + n;
    return {fetch_once(this->p.raw, at), fetch_once(this->p.raw, at + this->p.n / 2)};
  }
  __device__ uint4 made(const Fetched& product, int64_t row, int64_t n) const {
    Eight y = activated_approximately(this->end(product.gate, row, n), this->p.activation);
    const Eight up = this->end(product.up, row, this->p.n / 2 + n);
#pragma unroll
    for (int j = 0; j < 8; ++j) y.v[j] *= up.v[j];
    return in_16_bits<T>(y);
  }
};

}  // namespace sparseflow::cuda::rows
