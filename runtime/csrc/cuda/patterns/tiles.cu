#include "tiles.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace sparseflow::cuda::patterns {
namespace {

constexpr int kThreads = 256;  // one for each block of a slab

// Calls what(row, block, r, b) for a thread's block of a slab, by its row and block of the weight and of the slab.
template <int Block>
struct Where {
  int64_t row, block;
  int r, b;
  int64_t slab;  // in bytes from the start

  __device__ explicit Where(const Extent& e) : r(threadIdx.x / 16), b(threadIdx.x % 16) {
    using P = Pattern<Block>;
    const int64_t unit = blockIdx.x, rows = int64_t(blockIdx.y) * gridDim.z + blockIdx.z;  // of 16
    row = rows * 16 + r, block = unit * 16 + b;
    slab = (rows / 4 * e.units() + unit) * P::tile_bytes + rows % 4 * P::slab_bytes;
  }

  __device__ bool inside(const Extent& e) const { return row < e.n && block < e.blocks(); }
};

template <int Block>
__device__ int64_t code_bytes_of_row(const Extent& e) {
  return (e.blocks() * Pattern<Block>::code_bits + 7) / 8;
}

template <int Block>
__device__ int portable_code(const Extent& e, const uint8_t* codes, int64_t row, int64_t block) {
  constexpr int bits = Pattern<Block>::code_bits;
  const int64_t across = code_bytes_of_row<Block>(e), bit = block * bits, byte = bit / 8;
  const uint8_t* from = codes + row * across + byte;
  const int word = from[0] | (byte + 1 < across ? from[1] << 8 : 0);
  return word >> bit % 8 & ((1 << bits) - 1);
}

// How many columns before one a code keeps.
template <int Block>
__device__ int rank_of(int code, int column) {
  int i = 0, j = 0;
  Pattern<Block>::dropped(code, i, j);
  return column - (i < column) - (j < column);
}

template <int Block>
__global__ void __launch_bounds__(kThreads) gather_tiles(Extent e, const uint16_t* values, const uint8_t* codes, uint8_t* tiles) {
  using P = Pattern<Block>;
  __shared__ uint8_t found[16][16];
  const Where<Block> at(e);
  const int code = at.inside(e) ? min(portable_code<Block>(e, codes, at.row, at.block), P::codes - 1) : 0;
  found[at.r][at.b] = static_cast<uint8_t>(code);
  const Slots slots = slots_of<Block>(code, P::rotation(at.b));
  const uint16_t* from = values + (at.row * e.blocks() + at.block) * P::kept;
  for (int w = 0; w < P::windows; ++w) {
    uint32_t pair = 0;
    for (int s = 0; s < 2 && at.inside(e); ++s)
      pair |= uint32_t(from[rank_of<Block>(code, slots.column[2 * w + s])]) << 16 * s;
    *reinterpret_cast<uint32_t*>(tiles + at.slab + P::value_at(at.r, at.b, w)) = pair;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < P::code_bytes; i += kThreads) {
    const auto index = [&](int lane, int lookup) {
      const Lookup l = lookup_of<Block>(lane, lookup);
      return found[l.row][l.even] | found[l.row][l.odd] << P::code_bits;
    };
    int byte = 0;
    if (i < 128) byte = index(i / 4, i % 4);
    else
      for (int l = 0; l < 4; ++l) byte |= index(i - 128, l) >> 8 << 2 * l;
    tiles[at.slab + P::value_bytes + i] = static_cast<uint8_t>(byte);
  }
}

template <int Block>
__global__ void __launch_bounds__(kThreads) scatter_values(Extent e, const uint8_t* tiles, uint16_t* values) {
  using P = Pattern<Block>;
  const Where<Block> at(e);
  if (!at.inside(e)) return;
  const uint8_t* slab = tiles + at.slab;
  const int code = code_in<Block>(slab, at.r, at.b);
  const Slots slots = slots_of<Block>(code, P::rotation(at.b));
  uint16_t* to = values + (at.row * e.blocks() + at.block) * P::kept;
  for (int s = 0; s < P::kept; ++s)
    to[rank_of<Block>(code, slots.column[s])] = reinterpret_cast<const uint16_t*>(slab + P::value_at(at.r, at.b, s / 2))[s % 2];
}

// A thread for each byte of codes.
template <int Block>
__global__ void __launch_bounds__(kThreads) scatter_codes(Extent e, const uint8_t* tiles, uint8_t* codes) {
  using P = Pattern<Block>;
  const int64_t across = code_bytes_of_row<Block>(e), i = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  if (i >= e.n * across) return;
  const int64_t row = i / across, bit = i % across * 8;
  const uint8_t* rows = tiles + row / 64 * e.units() * P::tile_bytes + row % 64 / 16 * P::slab_bytes;
  uint32_t byte = 0;
  for (int64_t block = bit / P::code_bits; block < e.blocks() && block * P::code_bits < bit + 8; ++block) {
    const uint32_t code = code_in<Block>(rows + block / 16 * P::tile_bytes, static_cast<int>(row % 16), static_cast<int>(block % 16));
    const int64_t shift = block * P::code_bits - bit;
    byte |= shift < 0 ? code >> -shift : code << shift;
  }
  codes[i] = static_cast<uint8_t>(byte);
}

// Reads slabs by whole vectors into shared memory, and writes blocks as words of two columns where K is even.
template <int Block>
__global__ void __launch_bounds__(kThreads) expand_tiles(Extent e, const uint8_t* tiles, uint16_t* dense) {
  using P = Pattern<Block>;
  __shared__ __align__(16) uint8_t slab[P::slab_bytes];
  const Where<Block> at(e);
  const auto* from = reinterpret_cast<const uint4*>(tiles + at.slab);
  for (int i = threadIdx.x; i < P::slab_bytes / 16; i += kThreads) reinterpret_cast<uint4*>(slab)[i] = from[i];
  __syncthreads();
  if (!at.inside(e)) return;
  int first = 0, second = 0;
  P::dropped(code_in<Block>(slab, at.r, at.b), first, second);
  const int rotation = P::rotation(at.b);
  // Every value in the order of its windows; where window 1 has its pairs the other way round, one of two is behind.
  uint32_t windows[P::windows];
#pragma unroll
  for (int w = 0; w < P::windows; ++w) windows[w] = *reinterpret_cast<const uint32_t*>(slab + P::value_at(at.r, at.b, w));
  const auto kept_at = [&](int c) { return (c + rotation) % Block != first && (c + rotation) % Block != second; };
  uint32_t out[Block / 2] = {};
  int rank = 0;
#pragma unroll
  for (int c = 0; c < Block; ++c) {
    if (!kept_at(c)) continue;
    // The second window's values are swapped if its first is of columns 2, 3 and its second of 4, 5.
    int slot = rank++;
    if (slot / 2 == 1) {
      const bool low = kept_at(2) + kept_at(3) - (2 - kept_at(0) - kept_at(1)) == 1;  // one of columns 2, 3
      if (low) slot ^= 1;
    }
    const uint32_t value = windows[slot / 2] >> slot % 2 * 16 & 0xffff;
    out[c / 2] |= value << c % 2 * 16;
  }
  uint16_t* to = dense + at.row * e.k + at.block * Block;
  const int64_t left = e.k - at.block * Block;
#pragma unroll
  for (int pair = 0; pair < Block / 2; ++pair) {
    const int column = (2 * pair + rotation) % Block;
    if (e.k % 2 == 0 && column + 1 < left) {
      *reinterpret_cast<uint32_t*>(to + column) = out[pair];
    } else {
      if (column < left) to[column] = static_cast<uint16_t>(out[pair]);
      if (column + 1 < left) to[column + 1] = static_cast<uint16_t>(out[pair] >> 16);
    }
  }
}

void check_launch() {
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw std::runtime_error(std::string("sparseflow: the conversion of tiles did not launch: ") + cudaGetErrorString(error));
}

dim3 slabs_of(const Extent& e) { return dim3(static_cast<unsigned>(e.units()), static_cast<unsigned>(e.strips()), 4); }

}  // namespace

void to_tiles(const Extent& e, const uint16_t* values, const uint8_t* codes, uint8_t* tiles, void* stream) {
  const auto kernel = e.block == 8 ? gather_tiles<8> : gather_tiles<6>;
  kernel<<<slabs_of(e), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(e, values, codes, tiles);
  check_launch();
}

void to_portable(const Extent& e, const uint8_t* tiles, uint16_t* values, uint8_t* codes, void* stream) {
  auto* on = static_cast<cudaStream_t>(stream);
  (e.block == 8 ? scatter_values<8> : scatter_values<6>)<<<slabs_of(e), kThreads, 0, on>>>(e, tiles, values);
  check_launch();
  const int64_t bytes = e.n * ((e.blocks() * (e.block == 8 ? 5 : 4) + 7) / 8);
  const auto blocks = static_cast<unsigned>((bytes + kThreads - 1) / kThreads);
  (e.block == 8 ? scatter_codes<8> : scatter_codes<6>)<<<blocks, kThreads, 0, on>>>(e, tiles, codes);
  check_launch();
}

void to_dense(const Extent& e, const uint8_t* tiles, uint16_t* dense, void* stream) {
  const auto kernel = e.block == 8 ? expand_tiles<8> : expand_tiles<6>;
  kernel<<<slabs_of(e), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(e, tiles, dense);
  check_launch();
}

}  // namespace sparseflow::cuda::patterns
