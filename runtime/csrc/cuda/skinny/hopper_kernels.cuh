#pragma once

#include "hopper.cuh"

namespace sparseflow::cuda::skinny {

template <class T, class S>
std::atomic<uint64_t> hopper_ready{0};

template <class T, class S>
constexpr HopperKernel hopper_kernel() {
  return {multiply_hopper<T, S>, &hopper_ready<T, S>, S::rows,        S::m_rows,   64 * S::units,
          S::threads,            S::per_sm,           S::stage_bytes, S::sum_bytes};
}

template <class T, int Tiles, int Groups, int PerSm>
constexpr void fill(HopperKernel (&row)[HopperKernels::widths]) {
  row[0] = hopper_kernel<T, HopperShape<Tiles, Groups, PerSm, 1>>();
  row[1] = hopper_kernel<T, HopperShape<Tiles, Groups, PerSm, 2>>();
  row[2] = hopper_kernel<T, HopperShape<Tiles, Groups, PerSm, 4>>();
  // With 256 rows and two blocks on a multiprocessor, more rows of x leave no room for a ring.
  if constexpr (Tiles * Groups * PerSm < 8) {
    row[3] = hopper_kernel<T, HopperShape<Tiles, Groups, PerSm, 8>>();
    row[4] = hopper_kernel<T, HopperShape<Tiles, Groups, PerSm, 16>>();
  }
}

// Few rows of W in a block give many blocks without splitting K; many rows of W read x less often.
template <class T>
constexpr HopperKernels hopper_kernels_of() {
  HopperKernels out{};
  fill<T, 1, 1, 3>(out.kernel[0]);
  fill<T, 1, 1, 2>(out.kernel[1]);
  fill<T, 1, 2, 2>(out.kernel[2]);
  fill<T, 2, 2, 1>(out.kernel[3]);
  fill<T, 2, 2, 2>(out.kernel[4]);
  // With this many rows of x, sums and stages take a whole multiprocessor.
  out.kernel[5][3] = hopper_kernel<T, HopperShape<1, 2, 1, 8>>();
  out.kernel[5][4] = hopper_kernel<T, HopperShape<1, 2, 1, 16>>();
  out.kernel[5][5] = hopper_kernel<T, HopperShape<1, 2, 1, 32>>();
  // More rows of x are processed in groups, with half as many sums.
  out.kernel[6][4] = out.kernel[5][4];
  return out;
}

}  // namespace sparseflow::cuda::skinny
