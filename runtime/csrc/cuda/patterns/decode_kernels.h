// The interface between the kernel of decode.cuh and its launch.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "decode.h"

namespace sparseflow::cuda::patterns {

struct DecodeCall {
  Product p;
  int slots, strips, units;
  uint64_t tag;        // of counters (../skinny/hopper_shares.cuh); its low byte is 0
  uint64_t* counters;  // behind the shares' sums in p.partials
};

struct DecodeKernel {
  void (*multiply)(DecodeCall);
  std::atomic<uint64_t>* ready;  // a bit for each device on which the kernel's shared memory was set
  // Of a strip, of the warps that multiply, of x; threads of a block; blocks of a multiprocessor.
  int rows, row_warps, m_rows, threads, per_sm;
  int stage_bytes, other_bytes;  // of shared memory
  int partial_floats;            // of a warp's sums
  int unit;                      // columns of a stage
};

struct DecodeKernels {
  static constexpr int widths = 4;
  // By m_rows = 8, 16, 32, 64; empty where it isn't useful.
  DecodeKernel kernel[kVariants][widths];
};

extern const DecodeKernels bf16_kernels_6, bf16_kernels_8, fp16_kernels_6, fp16_kernels_8;

}  // namespace sparseflow::cuda::patterns
