#include "tiles.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace sparseflow::cuda::patterns {
namespace {

constexpr int kThreads = 256;  // one for each block of a slab of 16 rows

// A thread's block: its row and place in the weight, and in a slab.
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

// How the columns of a block come from its windows: those of pair p are bytes of the words low(p) and high(p), as
// `prmt` selects them, with zeros where the mask has some.
template <int Block>
struct Expansion {
  uint32_t selectors[2];  // of two pairs each
  uint32_t masks[4];
  uint32_t unused[2];

  static __host__ __device__ constexpr int low(int p) { return p == 0 ? 0 : p - 1; }
  static __host__ __device__ constexpr int high(int p) { return p < Pattern<Block>::windows ? p : p - 1; }
};

template <int Block>
struct Expansions {
  Expansion<Block> of[2][32];  // rotated or not, by code
};

template <int Block>
constexpr Expansions<Block> expansions() {
  using P = Pattern<Block>;
  Expansions<Block> out{};
  for (int turned = 0; turned < 2; ++turned)
    for (int code = 0; code < P::codes; ++code) {
      const int rotation = Block == 8 && turned ? 4 : 0;
      const Slots slots = slots_of<Block>(code, rotation);
      Expansion<Block>& e = out.of[turned][code];
      for (int s = 0; s < P::kept; ++s) {
        const int column = (slots.column[s] - rotation + Block) % Block, p = column / 2, half = column % 2;
        const int byte = (s / 2 == Expansion<Block>::low(p) ? 0 : 4) + s % 2 * 2;
        e.selectors[p / 2] |= uint32_t(byte | (byte + 1) << 4) << (16 * (p % 2) + 8 * half);
        e.masks[p] |= 0xffffu << 16 * half;
      }
    }
  return out;
}

__device__ const Expansions<6> expansions_6 = expansions<6>();
__device__ const Expansions<8> expansions_8 = expansions<8>();

// Expands a tile through shared memory, so that both sides are read and written in whole vectors (where K is a multiple
// of 8).
template <int Block>
__global__ void __launch_bounds__(kThreads) expand_tiles(Extent e, const uint8_t* tiles, uint16_t* dense) {
  using P = Pattern<Block>;
  using E = Expansion<Block>;
  constexpr int vectors = P::unit / 8, pitch = P::unit / 2 + 4;  // of a row of the tile: vectors, and words with padding
  __shared__ __align__(16) uint8_t tile[P::tile_bytes];
  __shared__ __align__(16) E table[2][32];
  __shared__ __align__(16) uint32_t out[64 * pitch];
  const int64_t unit = blockIdx.x, strip = blockIdx.y;
  const auto* from = reinterpret_cast<const uint4*>(tiles + (strip * e.units() + unit) * P::tile_bytes);
  for (int i = threadIdx.x; i < P::tile_bytes / 16; i += kThreads) reinterpret_cast<uint4*>(tile)[i] = __ldcs(from + i);
  const auto* known = reinterpret_cast<const uint4*>(Block == 8 ? static_cast<const void*>(&expansions_8) : &expansions_6);
  for (int i = threadIdx.x; i < static_cast<int>(sizeof table / 16); i += kThreads) reinterpret_cast<uint4*>(table)[i] = known[i];
  __syncthreads();
  const int r = threadIdx.x / 16, b = threadIdx.x % 16, turned = P::rotation(b) / 4;
#pragma unroll
  for (int slab = 0; slab < 4; ++slab) {
    const uint8_t* at = tile + slab * P::slab_bytes;
    const E& expansion = table[turned][code_in<Block>(at, r, b)];
    uint32_t windows[P::windows];
#pragma unroll
    for (int w = 0; w < P::windows; ++w) windows[w] = *reinterpret_cast<const uint32_t*>(at + P::value_at(r, b, w));
#pragma unroll
    for (int p = 0; p < Block / 2; ++p) {
      const uint32_t selector = expansion.selectors[p / 2] >> 16 * (p % 2);
      const uint32_t pair = __byte_perm(windows[E::low(p)], windows[E::high(p)], selector) & expansion.masks[p];
      out[(slab * 16 + r) * pitch + b * (Block / 2) + (p + 2 * turned) % (Block / 2)] = pair;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 64 * vectors; i += kThreads) {
    const int64_t row = strip * 64 + i / vectors, column = unit * P::unit + i % vectors * 8;
    if (row >= e.n || column >= e.k) continue;
    const uint4 eight = *reinterpret_cast<const uint4*>(out + i / vectors * pitch + i % vectors * 4);
    uint16_t* to = dense + row * e.k + column;
    if (e.k % 8 == 0) {
      *reinterpret_cast<uint4*>(to) = eight;
    } else {
      const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
      for (int c = 0; c < 8 && column + c < e.k; ++c) to[c] = static_cast<uint16_t>(words[c / 2] >> c % 2 * 16);
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
  kernel<<<dim3(static_cast<unsigned>(e.units()), static_cast<unsigned>(e.strips())), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(e, tiles, dense);
  check_launch();
}

}  // namespace sparseflow::cuda::patterns
