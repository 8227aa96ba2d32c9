#pragma once

#include "decode.cuh"

namespace sparseflow::cuda::patterns {

template <class T, class S>
std::atomic<uint64_t> decode_ready{0};

template <class T, class S>
constexpr DecodeKernel decode_kernel() {
  return {multiply_blocks<T, S>, &decode_ready<T, S>, S::rows,        S::row_warps,      S::m_rows, S::threads,
          S::per_sm,             S::stage_bytes,      S::other_bytes, S::partial_floats, S::P::unit};
}

template <class T, int Block, int Tiles, int RowWarps, int PerSm>
constexpr void fill(DecodeKernel (&row)[DecodeKernels::widths]) {
  row[0] = decode_kernel<T, DecodeShape<Block, Tiles, RowWarps, PerSm, 1>>();
  row[1] = decode_kernel<T, DecodeShape<Block, Tiles, RowWarps, PerSm, 2>>();
  // More rows of x must be read from shared memory for 32 rows of W at a time, else that would take longer than W does.
  if constexpr (Tiles > 1) {
    row[2] = decode_kernel<T, DecodeShape<Block, Tiles, RowWarps, PerSm, 4>>();
    row[3] = decode_kernel<T, DecodeShape<Block, Tiles, RowWarps, PerSm, 8>>();
  }
}

// Strips of 256 rows read x less often, those of 128 are shared by fewer blocks (measured on an H200: up to 16 rows of x
// the first are the fastest of nearly all products, the others of some; strips of 64 rows of none).
template <class T, int Block>
constexpr DecodeKernels decode_kernels_of() {
  DecodeKernels out{};
  fill<T, Block, 2, 8, 1>(out.kernel[0]);
  fill<T, Block, 2, 4, 2>(out.kernel[1]);
  fill<T, Block, 1, 8, 1>(out.kernel[2]);
  return out;
}

}  // namespace sparseflow::cuda::patterns
