// The compiled kernels, a table for each dtype.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "skinny.h"

namespace sparseflow::cuda::skinny {

struct Kernel {
  void (*multiply)(Product, int slots);
  std::atomic<uint64_t>* ready;  // a bit for each device on which the kernel's shared memory was set
  int rows, m_rows, threads, per_sm, stage_bytes, sum_bytes;
};

struct Kernels {
  static constexpr int shapes = 4, widths = 4;
  Kernel kernel[shapes][widths];  // by shape of the block and by m_tiles = 1, 2, 4, 8
  void (*finish_partials)(Product, int shares);
};

extern const Kernels bf16_kernels, fp16_kernels;
extern const Kernels e4m3_bf16_kernels, e4m3_fp16_kernels;  // W in e4m3, x as named

}  // namespace sparseflow::cuda::skinny
