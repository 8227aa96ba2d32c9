#pragma once

#include "device.cuh"
//
#include "kernel.cuh"
#include "kernels.h"

namespace sparseflow::cuda::skinny {

template <class T, class S>
std::atomic<uint64_t> ready{0};

template <class T, class S>
constexpr Kernel kernel_of() {
  return {multiply<T, S>, &ready<T, S>, S::rows, S::m_rows, S::threads, S::per_sm, S::stage_bytes,
          S::sum_bytes};
}

// The shapes differ in rows of W (and so in how often x is read), in how long a piece of a row of W they load at a
// time, and in how many blocks share a multiprocessor.
template <class T, bool E4m3 = false>
constexpr Kernels kernels_of() {
  return {{{kernel_of<T, Shape<2, 4, 1, 2, 2, 1, E4m3>>(), kernel_of<T, Shape<2, 4, 1, 2, 2, 2, E4m3>>(),
            kernel_of<T, Shape<2, 4, 1, 2, 2, 4, E4m3>>(), kernel_of<T, Shape<2, 4, 1, 2, 2, 8, E4m3>>()},
           {kernel_of<T, Shape<2, 2, 2, 4, 2, 1, E4m3>>(), kernel_of<T, Shape<2, 2, 2, 4, 2, 2, E4m3>>(),
            kernel_of<T, Shape<2, 2, 2, 4, 2, 4, E4m3>>(), kernel_of<T, Shape<2, 2, 2, 4, 2, 8, E4m3>>()},
           {kernel_of<T, Shape<4, 4, 2, 2, 1, 1, E4m3>>(), kernel_of<T, Shape<4, 4, 2, 2, 1, 2, E4m3>>(),
            kernel_of<T, Shape<4, 4, 2, 2, 1, 4, E4m3>>(), kernel_of<T, Shape<4, 4, 2, 2, 1, 8, E4m3>>()},
           {kernel_of<T, Shape<4, 8, 1, 1, 1, 1, E4m3>>(), kernel_of<T, Shape<4, 8, 1, 1, 1, 2, E4m3>>(),
            kernel_of<T, Shape<4, 8, 1, 1, 1, 4, E4m3>>(), kernel_of<T, Shape<4, 8, 1, 1, 1, 8, E4m3>>()}},
          finish_partials<T, E4m3>};
}

}  // namespace sparseflow::cuda::skinny
