#pragma once

#include "kernel.cuh"
#include "kernels.h"

namespace sparseflow::cuda::wide {

template <class S>
std::atomic<uint64_t> ready{0};

template <int Groups, int Columns, int PerSm, int Shares = 1>
constexpr Kernel kernel_of() {
  using S = TileShape<Groups, Columns, PerSm, Shares>;
  return {multiply_tiles<S>, &ready<S>,      Groups,           Columns,         PerSm,
          Shares,            S::threads,     S::stage_bytes,   S::staging_bytes, S::sum_bytes};
}

}  // namespace sparseflow::cuda::wide
