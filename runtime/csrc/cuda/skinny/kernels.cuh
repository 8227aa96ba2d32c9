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

// The shapes differ in the rows of W (and thus in how often x is read), in the length of the pieces of a row of W that
// are loaded at a time, and in the number of blocks on a multiprocessor.
template <class T>
constexpr Kernels kernels_of() {
  return {{{kernel_of<T, Shape<2, 4, 1, 2, 2, 1>>(), kernel_of<T, Shape<2, 4, 1, 2, 2, 2>>(),
            kernel_of<T, Shape<2, 4, 1, 2, 2, 4>>(), kernel_of<T, Shape<2, 4, 1, 2, 2, 8>>()},
           {kernel_of<T, Shape<2, 2, 2, 4, 2, 1>>(), kernel_of<T, Shape<2, 2, 2, 4, 2, 2>>(),
            kernel_of<T, Shape<2, 2, 2, 4, 2, 4>>(), kernel_of<T, Shape<2, 2, 2, 4, 2, 8>>()},
           {kernel_of<T, Shape<4, 4, 2, 2, 1, 1>>(), kernel_of<T, Shape<4, 4, 2, 2, 1, 2>>(),
            kernel_of<T, Shape<4, 4, 2, 2, 1, 4>>(), kernel_of<T, Shape<4, 4, 2, 2, 1, 8>>()},
           {kernel_of<T, Shape<4, 8, 1, 1, 1, 1>>(), kernel_of<T, Shape<4, 8, 1, 1, 1, 2>>(),
            kernel_of<T, Shape<4, 8, 1, 1, 1, 4>>(), kernel_of<T, Shape<4, 8, 1, 1, 1, 8>>()}},
          finish_partials<T>};
}

}  // namespace sparseflow::cuda::skinny
