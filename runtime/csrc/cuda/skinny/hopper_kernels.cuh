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

template <class T, bool E4m3, int Tiles, int Groups, int PerSm>
constexpr void fill(HopperKernel (&row)[HopperKernels::widths]) {
  row[0] = hopper_kernel<T, HopperShape<Tiles, Groups, PerSm, 1, E4m3>>();
  row[1] = hopper_kernel<T, HopperShape<Tiles, Groups, PerSm, 2, E4m3>>();
  row[2] = hopper_kernel<T, HopperShape<Tiles, Groups, PerSm, 4, E4m3>>();
  // Of 256 rows with two blocks a multiprocessor, more rows of x leave no room for a ring.
  if constexpr (Tiles * Groups * PerSm < 8) {
    row[3] = hopper_kernel<T, HopperShape<Tiles, Groups, PerSm, 8, E4m3>>();
    // Nor are there registers for more sums beside W in e4m3: more rows of x run in groups.
    if constexpr (!E4m3) row[4] = hopper_kernel<T, HopperShape<Tiles, Groups, PerSm, 16, E4m3>>();
  }
}

// Few rows of W a block make many blocks without sharing out K, many read x less often.
template <class T, bool E4m3 = false>
constexpr HopperKernels hopper_kernels_of() {
  HopperKernels out{};
  fill<T, E4m3, 1, 1, 3>(out.kernel[0]);
  fill<T, E4m3, 1, 1, 2>(out.kernel[1]);
  fill<T, E4m3, 1, 2, 2>(out.kernel[2]);
  fill<T, E4m3, 2, 2, 1>(out.kernel[3]);
  fill<T, E4m3, 2, 2, 2>(out.kernel[4]);
  // Rows of x so many that their sums and stages take a whole multiprocessor.
  out.kernel[5][3] = hopper_kernel<T, HopperShape<1, 2, 1, 8, E4m3>>();
  if constexpr (!E4m3) {
    out.kernel[5][4] = hopper_kernel<T, HopperShape<1, 2, 1, 16, E4m3>>();
    out.kernel[5][5] = hopper_kernel<T, HopperShape<1, 2, 1, 32, E4m3>>();
  }
  // More rows of x in groups: their sums are half as many.
  constexpr int grouped = E4m3 ? 3 : 4;
  out.kernel[6][grouped] = out.kernel[5][grouped];
  return out;
}

}  // namespace sparseflow::cuda::skinny
