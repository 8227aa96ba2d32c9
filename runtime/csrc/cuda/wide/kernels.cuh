#pragma once

#include "kernel.cuh"
#include "kernels.h"

namespace sparseflow::cuda::wide {

template <class S>
std::atomic<uint64_t> ready{0};

template <class S>
std::atomic<int> clusters[kDevices];

template <class S>
constexpr auto multiply_of() {
  if constexpr (S::capped) return multiply_tiles_capped<S>;
  else return multiply_tiles<S>;
}

template <int Groups, int Columns, int PerSm, int AlongW = 1, int AlongX = 1, int Shares = 1>
constexpr Kernel kernel_of() {
  using S = TileShape<Groups, Columns, PerSm, AlongW, AlongX, Shares>;
  return {multiply_of<S>(), &ready<S>, clusters<S>, Groups, Columns, PerSm, AlongW, AlongX, Shares,
          S::threads, S::stage_bytes, S::staging_bytes, S::sum_bytes};
}

}  // namespace sparseflow::cuda::wide
