// The interface between the kernels of wide.h and their launch.
#pragma once

#include <array>
#include <atomic>

#include "tile.h"

namespace sparseflow::cuda::wide {

struct Kernel {
  void (*multiply)(TileCall);
  std::atomic<uint64_t>* ready;  // a bit for each device on which the kernel's shared memory was set
  int groups, columns, per_sm, shares, threads, stage_bytes, staging_bytes, sum_bytes;

  int rows() const { return 64 * groups; }
};

constexpr int kLarge = 4, kSmall = 5;
extern const std::array<Kernel, kLarge> large_kernels;
extern const std::array<Kernel, kSmall> small_kernels;

}  // namespace sparseflow::cuda::wide
