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
  // More rows of x are read from shared memory for each 32 rows of W, else that would take longer than reading W.
  row[2] = decode_kernel<T, DecodeShape<Block, 2, 8, 1, 4>>();
  row[3] = decode_kernel<T, DecodeShape<Block, 2, 8, 1, 8>>();
}

// Small strips are shared by fewer blocks, large ones read x less often.
template <class T, int Block>
constexpr DecodeKernels decode_kernels_of() {
  DecodeKernels out{};
  fill<T, Block, 1, 4, 2>(out.kernel[0]);
  fill<T, Block, 1, 8, 1>(out.kernel[1]);
  fill<T, Block, 2, 8, 1>(out.kernel[2]);
  return out;
}

}  // namespace sparseflow::cuda::patterns
