// The interface between the kernel for sm_90 and its launch.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <atomic>

#include "skinny.h"

namespace sparseflow::cuda::skinny {

struct HopperCall {
  CUtensorMap values;  // boxes of rows / 2 × stage_k / 2 of [N, K/2], 64 or 128 bytes wide
  CUtensorMap x;       // boxes of m_rows × 64 of [M, K]
  Product p;
  int slots, splits, m_groups;
  int early;     // stages of W that are loaded before the previous kernel is done
  int factors;   // of rows of x, by a norm before the product: where they lie in shared memory
  uint64_t tag;  // of counters in p.partials (hopper_shares.cuh); its low byte is 0
};

struct HopperKernel {
  void (*multiply)(HopperCall);
  std::atomic<uint64_t>* ready;  // a bit for each device on which the kernel's shared memory was set
  int rows, m_rows, stage_k, threads, per_sm, stage_bytes, sum_bytes;

  // The bytes of the sums and the word after them (hopper.cuh).
  int end_bytes() const { return sum_bytes + 16; }
};

struct HopperKernels {
  static constexpr int shapes = 7, widths = 6;
  // By shape of the block and by m_rows = 8, 16, 32, 64, 128, 256; empty if it doesn't fit or isn't useful.
  HopperKernel kernel[shapes][widths];
};

extern const HopperKernels hopper_bf16_kernels, hopper_fp16_kernels;
extern const HopperKernels hopper_e4m3_bf16_kernels, hopper_e4m3_fp16_kernels;  // W in e4m3, x as named

}  // namespace sparseflow::cuda::skinny
