// The interface between the kernels of wide.h and their launch.
#pragma once

#include <array>
#include <atomic>

#include "tile.h"

namespace sparseflow::cuda::wide {

constexpr int kDevices = 64;  // more have nothing cached

struct Kernel {
  void (*multiply)(TileCall);
  std::atomic<uint64_t>* ready;  // a bit for each device on which the kernel's shared memory was set
  std::atomic<int>* clusters;    // kDevices numbers of clusters that run at a time, 0 where unknown
  int groups, columns, per_sm, loading, shares, threads, stage_bytes, staging_bytes, sum_bytes;

  int rows() const { return 64 * groups; }
  int cluster() const { return loading * shares; }
};

constexpr int kLarge = 4, kSmall = 8;
extern const std::array<Kernel, kLarge> large_kernels;
extern const std::array<Kernel, kSmall> small_kernels;

}  // namespace sparseflow::cuda::wide
