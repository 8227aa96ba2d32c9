#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "layout.h"

namespace sparseflow::cuda {
namespace {

constexpr int kThreads = 256;
constexpr uint8_t kPadding = 14;  // the library's nibble beyond N and K: positions 2 and 3

// One block for each tile. It scatters the tile's nibbles into shared memory, so that the permutation needs no inverse.
__global__ void gather_positions(Layout l, const uint8_t* portable, uint8_t* positions) {
  extern __shared__ uint8_t nibbles[];
  const int64_t tile = blockIdx.x, per_tile = 32 * l.tile_groups();
  for (int64_t i = threadIdx.x; i < 64 * l.tile_groups(); i += blockDim.x) {
    const int64_t row = tile / l.tiles_across() * 64 + i / l.tile_groups();
    const int64_t group = tile % l.tiles_across() * l.tile_groups() + i % l.tile_groups();
    const int64_t at = l.nibble(row, group) - tile * 2 * per_tile;
    const bool inside = row < l.n && group < l.groups();
    const int64_t byte = row * ((l.groups() + 1) / 2) + group / 2;
    nibbles[at] = inside ? portable[byte] >> (group % 2 * 4) & 15 : kPadding;
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < per_tile; i += blockDim.x)
    positions[tile * per_tile + i] = nibbles[2 * i] | nibbles[2 * i + 1] << 4;
}

__device__ uint8_t nibble_at(const uint8_t* positions, int64_t index) { return positions[index >> 1] >> (index % 2 * 4) & 15; }

__global__ void scatter_positions(Layout l, const uint8_t* positions, uint8_t* portable) {
  const int64_t across = (l.groups() + 1) / 2;
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < l.n * across; i += int64_t(gridDim.x) * kThreads) {
    const int64_t row = i / across, group = i % across * 2;
    const uint8_t odd = group + 1 < l.groups() ? nibble_at(positions, l.nibble(row, group + 1)) : 4;
    portable[i] = nibble_at(positions, l.nibble(row, group)) | odd << 4;
  }
}

// For any shape: one thread for each group.
template <class T>
__global__ void decompress_groups(Layout l, const T* values, int64_t pitch, const uint8_t* positions, T* dense) {
  const int64_t groups = l.groups();
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < l.n * groups; i += int64_t(gridDim.x) * kThreads) {
    const int64_t row = i / groups, group = i % groups;
    const int place = nibble_at(positions, l.nibble(row, group));
    const T* pair = values + row * pitch + 2 * group;
    for (int j = 0; j < 4 && 4 * group + j < l.k; ++j)
      dense[row * l.k + 4 * group + j] = j == (place & 3) ? pair[0] : j == place >> 2 ? pair[1] : T(0);
  }
}

// For elements of 1 or 2 bytes, with rows of the dense weight aligned to 16 bytes, and rows of values and the positions to
// 8. A thread writes 16 bytes in each of eight rows at a distance of eight, and adjacent threads write adjacent bytes.
// Four adjacent threads share the nibbles of a tile's columns.
template <class T>
__global__ void decompress_tiles(Layout l, const T* values, int64_t pitch, const uint8_t* positions, T* dense) {
  constexpr int groups = 4 / sizeof(T);  // of a thread in a row: 8 bytes of values
  const int64_t column = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;  // in units of 16 bytes of a row
  const int64_t tile = column / 4, quarter = column % 4;
  const int64_t across = l.k * sizeof(T) / 16, value_across = pitch * sizeof(T) / 8;  // the units of a row
  if (column >= across) return;
  const int64_t top = blockIdx.y * int64_t(64) + threadIdx.y;
#pragma unroll
  for (int high = 0; high < 4; ++high) {
    const int64_t row = top + 16 * high;
    const auto* words = reinterpret_cast<const uint64_t*>(positions + (l.nibble(row, tile * 4 * groups) >> 1));
    const uint64_t nibbles = words[sizeof(T) == 1 ? quarter & 1 : 0];
#pragma unroll
    for (int mid = 0; mid < 2; ++mid) {
      union {
        uint64_t word;
        T value[2 * groups];
      } in;
      union {
        uint4 vector;
        T value[4 * groups];
      } out;
      const int64_t r = row + 8 * mid;
      if (r >= l.n) continue;
      in.word = reinterpret_cast<const uint64_t*>(values)[r * value_across + column];
#pragma unroll
      for (int g = 0; g < groups; ++g) {
        // Layout::nibble's low bits, for the group quarter * groups + g.
        const int at = sizeof(T) == 1 ? (g >> 1) << 3 | (quarter >> 1) << 2 | mid << 1 | (g & 1)
                                      : (quarter & 1) << 3 | g << 2 | (quarter >> 1) << 1 | mid;
        const int place = nibbles >> (4 * at) & 15;
#pragma unroll
        for (int j = 0; j < 4; ++j)
          out.value[4 * g + j] = j == (place & 3)     ? in.value[2 * g]
                                 : j == (place >> 2) ? in.value[2 * g + 1]
                                                      : T(0);
      }
      reinterpret_cast<uint4*>(dense)[r * across + column] = out.vector;
    }
  }
}

void check_launch(const char* what) {
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw std::runtime_error("sparseflow: " + std::string(what) + " did not launch: " + cudaGetErrorString(error));
}

int blocks_for(int64_t items) { return static_cast<int>(std::min<int64_t>((items + kThreads - 1) / kThreads, 65535)); }

template <class T>
void decompress_as(const Layout& l, const void* values, int64_t pitch, const uint8_t* positions, void* dense,
                   cudaStream_t stream) {
  const auto* from = static_cast<const T*>(values);
  auto* to = static_cast<T*>(dense);
  if constexpr (sizeof(T) < 4) {
    const bool aligned = (reinterpret_cast<uintptr_t>(values) | reinterpret_cast<uintptr_t>(positions)) % 8 == 0;
    const bool rows_aligned = l.k * sizeof(T) % 16 == 0 && pitch * sizeof(T) % 8 == 0;
    if (aligned && rows_aligned && l.padded_n() / 64 <= 65535) {
      const dim3 block(32, 8), grid((l.k * sizeof(T) / 16 + 31) / 32, l.padded_n() / 64);
      decompress_tiles<T><<<grid, block, 0, stream>>>(l, from, pitch, positions, to);
      return;
    }
  }
  decompress_groups<T><<<blocks_for(l.n * l.groups()), kThreads, 0, stream>>>(l, from, pitch, positions, to);
}

}  // namespace

bool kernels_built() { return true; }

void to_device_positions(const Layout& l, const uint8_t* portable, uint8_t* positions, void* stream) {
  const auto tiles = static_cast<unsigned>(l.padded_n() / 64 * l.tiles_across());
  gather_positions<<<tiles, kThreads, 64 * l.tile_groups(), static_cast<cudaStream_t>(stream)>>>(l, portable, positions);
  check_launch("the permutation of positions");
}

void to_portable_positions(const Layout& l, const uint8_t* positions, uint8_t* portable, void* stream) {
  const int blocks = blocks_for(l.n * ((l.groups() + 1) / 2));
  scatter_positions<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(l, positions, portable);
  check_launch("the permutation of positions");
}

void decompress(const Layout& l, const void* values, int64_t pitch, const uint8_t* positions, void* dense, void* stream) {
  auto* on = static_cast<cudaStream_t>(stream);
  if (l.element_size == 1) decompress_as<uint8_t>(l, values, pitch, positions, dense, on);
  else if (l.element_size == 2) decompress_as<uint16_t>(l, values, pitch, positions, dense, on);
  else decompress_as<uint32_t>(l, values, pitch, positions, dense, on);
  check_launch("the decompression");
}

}  // namespace sparseflow::cuda
