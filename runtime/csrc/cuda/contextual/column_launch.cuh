// Launching of the kernel of column.cuh, from the library that has its way of streaming and meeting.
#pragma once

#include <algorithm>
#include <atomic>

#include "column.cuh"
#include "launch.cuh"

namespace sparseflow::cuda::contextual {

constexpr int kShares = 8;        // blocks that share the inputs of a slab: larger clusters don't fit everywhere
constexpr int kAlignment = 64;    // of a tile's columns: 128 bytes, which every block can finish a part of

// Cuts the columns into as many slabs as clusters of blocks run at once, and slabs into tiles.
inline void cut(Columns& p, int most, int device) {
  const auto tiles_of = [](int whole, int part) { return (whole + part - 1) / part; };
  const int slab = tiles_of(p.n, std::max(1, processors(device) / kShares));
  p.tiles = tiles_of(slab, most);
  p.width = tiles_of(tiles_of(slab, p.tiles), kAlignment) * kAlignment;
  p.room = tiles_of(p.k, kShares);
}

inline int slabs_of(const Columns& p) { return (p.n + p.tiles * p.width - 1) / (p.tiles * p.width); }

template <class S>
int shared_bytes(const Columns& p) {
  return S::ring_bytes + S::barrier_bytes + S::sum_bytes + S::box_bytes + list_bytes<S::rows>(p.room);
}

// Whether x fits the ring, and everything shared memory.
template <class S>
bool fits(Columns p, int device) {
  cut(p, S::tile, device);
  return p.m * p.pieces * 16 <= S::ring_bytes && shared_bytes<S>(p) <= skinny::shared_memory_of(1, device);
}

template <class T, class S, template <class, class> class Stream, bool Cluster>
void launch_columns(Columns p, int device, void* stream) {
  static std::atomic<uint64_t> allowed{0};
  const auto kernel = multiply_columns<T, S, Stream, Cluster>;
  cut(p, S::tile, device);
  skinny::allow_shared_memory(reinterpret_cast<const void*>(kernel), allowed, skinny::shared_memory_of(1, device), device);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kShares, slabs_of(p));
  config.blockDim = dim3(S::threads);
  config.dynamicSmemBytes = shared_bytes<S>(p);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {kShares, 1, 1};
  config.attrs = attributes;
  config.numAttrs = Cluster ? 2 : 0;
  check_launch(cudaLaunchKernelEx(&config, kernel, p));
}

}  // namespace sparseflow::cuda::contextual
