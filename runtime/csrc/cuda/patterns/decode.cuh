// y [M, N] = x [M, K] · Wᵀ for few rows of x and W in tiles (tile.h).
//
// The work is a line of stages, each a unit of K of a strip of S::rows rows of W: all units of the first strip, and so
// on. Every block takes an equal stretch of the line, so that all read equally much for any N and K, and reads on while
// it finishes a strip. Its last two warps fill a ring in shared memory, one with W and one with x; each other warp
// multiplies S::tiles × 16 rows of W and finishes them alone. A strip that several blocks share is added up through memory by the warp that is last.
#pragma once

#include "copies.cuh"
#include "decode_kernels.h"
#include "tile.h"
//
#include "../skinny/kernel.cuh"

namespace sparseflow::cuda::patterns {

using skinny::Eight;
using skinny::load4;

template <int Block, int Tiles, int RowWarps, int PerSm, int MTiles>
struct DecodeShape {
  using P = Pattern<Block>;
  static constexpr int tiles = Tiles, row_warps = RowWarps, per_sm = PerSm, m_tiles = MTiles;
  static constexpr int slabs = Tiles * RowWarps, rows = 16 * slabs, m_rows = 8 * MTiles;
  static constexpr int threads = 32 * RowWarps + 64;
  // Beside each unit of a row of x 16 bytes are left out, so that eight rows lie on different banks.
  static constexpr int x_pitch = P::unit * 2 + 16;
  static constexpr int w_bytes = rows / 64 * P::tile_bytes, x_bytes = m_rows * x_pitch;
  static constexpr int stage_bytes = w_bytes + x_bytes;
  static constexpr int table_bytes = P::table_entries * 4;
  static constexpr int sum_pitch = 16 * Tiles + 4, sum_bytes = 8 * sum_pitch * 4;  // of a warp
  static constexpr int other_bytes = table_bytes + row_warps * sum_bytes;
  static constexpr int partial_floats = tiles * m_tiles * 128;  // of a warp
  static_assert(rows % 64 == 0 && stage_bytes % 16 == 0);
};

// Shared memory: the ring's slots, the table of positions, the warps' sums, and two barriers for each slot.
struct Room {
  Shared ring, table, sums, full, empty;
};

template <class S>
__device__ inline Room room_of(const DecodeCall& c) {
  const Shared ring = skinny::shared_address(skinny::shared_memory()), table = ring + c.slots * S::stage_bytes;
  const Shared full = table + S::other_bytes;
  return {ring, table, table + S::table_bytes, full, full + 8 * c.slots};
}

struct Turn {
  int slot = 0;
  uint32_t parity = 0;

  __device__ void advance(int slots) {
    if (++slot == slots) slot = 0, parity ^= 1;
  }
};

struct Stretch {
  int first, last;  // stages
};

// The products of stages and blocks fit 32 bits (decode_launch.cu).
__device__ inline int first_stage(const DecodeCall& c, int block) {
  return static_cast<int>(uint32_t(c.strips * c.units) * uint32_t(block) / gridDim.x);
}

__device__ inline Stretch stretch_of(const DecodeCall& c) {
  return {first_stage(c, blockIdx.x), first_stage(c, blockIdx.x + 1)};
}

// The block whose stretch has a stage.
__device__ inline int block_of(const DecodeCall& c, int stage) {
  return static_cast<int>((uint32_t(stage + 1) * gridDim.x - 1) / uint32_t(c.strips * c.units));
}

// The first of W's rows of a slab of a strip. Of a gated product the first half of a strip's slabs are the gate's.
template <class S>
__device__ inline int row_of(const skinny::Product& p, int strip, int slab) {
  if (!p.gated) return strip * S::rows + slab * 16;
  const int half = S::slabs / 2, side = slab / half;
  return side * (p.n / 2) + strip * (S::rows / 2) + (slab - side * half) * 16;
}

// A walk along a block's stretch.
struct Walk {
  int strip, unit, left;

  __device__ Walk(const DecodeCall& c, const Stretch& work)
      : strip(work.first / c.units), unit(work.first % c.units), left(work.last - work.first) {}

  // Whether this stage begins what the block has of a strip, or ends it.
  __device__ bool ends(const DecodeCall& c) const { return unit + 1 == c.units || left == 1; }

  __device__ void advance(const DecodeCall& c) {
    --left;
    if (++unit == c.units) unit = 0, ++strip;
  }
};

// Loads W. It is constant, so this doesn't wait for the previous kernel.
template <class S>
__device__ inline void produce_weight(const DecodeCall& c, const Room& room) {
  using P = typename S::P;
  constexpr int pieces = S::rows / 64;
  if (threadIdx.x % 32 >= kWeightLanes) return;
  const uint64_t once = skinny::read_once();
  const uint8_t* from[pieces] = {};
  int count = 0;
  Walk walk(c, stretch_of(c));
  Turn turn{.slot = 0, .parity = 1};
  for (bool begins = true; walk.left > 0; walk.advance(c)) {
    if (begins) {
      count = 0;
#pragma unroll
      for (int i = 0; i < pieces; ++i) {
        const int row = row_of<S>(c.p, walk.strip, 4 * i);
        count += row < c.p.n;  // of the last strip's tiles, or of its halves', those at the end may be missing
        from[i] = static_cast<const uint8_t*>(c.p.values) + (int64_t(min(row, c.p.n - 1) / 64) * c.units + walk.unit) * P::tile_bytes;
      }
    }
    wait_until(room.empty + 8 * turn.slot, turn.parity);
    copy_weight(room.ring + turn.slot * S::stage_bytes, from, count, P::tile_bytes, room.full + 8 * turn.slot, once);
#pragma unroll
    for (int i = 0; i < pieces; ++i) from[i] += P::tile_bytes;
    begins = walk.unit + 1 == c.units;
    turn.advance(c.slots);
  }
}

// Loads x; what isn't there becomes zero.
template <class S>
__device__ inline void produce_rows(const DecodeCall& c, const Room& room) {
  constexpr int across = S::P::unit * 2 / 16, pieces = S::m_rows * across / 32;
  static_assert(S::m_rows * across % 32 == 0);
  const int lane = threadIdx.x % 32, rows = c.p.m - static_cast<int>(blockIdx.y) * S::m_rows;
  const auto* x = static_cast<const uint8_t*>(c.p.x) + int64_t(blockIdx.y) * S::m_rows * c.p.k * 2;
  wait_for_previous_kernel();
  Walk walk(c, stretch_of(c));
  Turn turn{.slot = 0, .parity = 1};
  for (; walk.left > 0; walk.advance(c)) {
    const Shared to = room.ring + turn.slot * S::stage_bytes + S::w_bytes, full = room.full + 8 * turn.slot;
    const int first = walk.unit * S::P::unit;
    wait_until(room.empty + 8 * turn.slot, turn.parity);
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const int row = (lane + 32 * i) / across, column = (lane + 32 * i) % across * 8;
      const bool inside = row < rows && first + column < c.p.k;
      skinny::copy_or_zero(to + row * S::x_pitch + column * 2, inside ? x + (int64_t(row) * c.p.k + first + column) * 2 : x, inside);
    }
    arrive_after_copies(full);
    turn.advance(c.slots);
  }
}

// The positions of a block's windows by its code, a byte for each window, in the low nibble: of blocks that aren't rotated,
// and of those beside them in odd groups.
template <int Block>
struct Positions {
  uint32_t of[2][1 << Pattern<Block>::code_bits];
};

template <int Block>
constexpr Positions<Block> positions_by_code() {
  using P = Pattern<Block>;
  Positions<Block> out{};
  for (int odd = 0; odd < 2; ++odd)
    for (int code = 0; code < 1 << P::code_bits; ++code) {
      // What was not loaded may have any code, but mma.sp wants positions in order.
      const Slots slots = slots_of<Block>(code < P::codes ? code : 0, Block == 8 && odd ? 4 : 0);
      for (int w = 0; w < P::windows; ++w) out.of[odd][code] |= uint32_t(slots.nibble[w]) << 8 * w;
    }
  return out;
}

static __device__ const Positions<6> positions_6 = positions_by_code<6>();
static __device__ const Positions<8> positions_8 = positions_by_code<8>();

template <class S>
__device__ inline void sync_multipliers() {
  asm volatile("bar.sync 1, %0;" ::"n"(32 * S::row_warps) : "memory");
}

// Fills the table: of the codes of two blocks beside each other their positions, a byte for each window, the even
// group's in the low nibble. To be called by the warps that multiply.
template <class S>
__device__ inline void fill_table(uint32_t* table) {
  using P = typename S::P;
  constexpr int single = 1 << P::code_bits;
  const auto& known = []() -> const auto& {
    if constexpr (P::block == 8) return positions_8;
    else return positions_6;
  }();
#pragma unroll
  for (int i = threadIdx.x; i < P::table_entries; i += 32 * S::row_warps)
    table[i] = __ldg(&known.of[0][i % single]) | __ldg(&known.of[1][i / single]) << 4;
  sync_multipliers<S>();
}

__device__ inline uint32_t load1(Shared from) {
  uint32_t v;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
  return v;
}

__device__ inline void load16(uint32_t (&v)[4], Shared from) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(from)
               : "memory");
}

// A lane's metadata for two sets of steps: those of even lanes' pairs, selector 0, and those of odd ones, selector 1.
template <int Block>
struct Metadata {
  uint32_t of[Block == 8 ? 3 : 2];
};

__device__ inline void load_metadata(Metadata<8>& out, Shared codes, Shared table) {
  const int lane = threadIdx.x % 32;
  const uint32_t low = load4(codes + lane * 4), high = load1(codes + 128 + lane);
  uint32_t found[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t of_low = i == 0 ? low << 2 : low >> (8 * i - 2);
    found[i] = load4(table + ((of_low & 0x3fc) | (high << (10 - 2 * i) & 0xc00)));
  }
  // Each found word has three bytes; rows g are in found[0] and [1], rows g + 8 in [2] and [3].
  out.of[0] = skinny::byte_permute(found[0], found[2], 0x5410);
  out.of[1] = skinny::byte_permute(skinny::byte_permute(found[0], found[1], 0x0042), skinny::byte_permute(found[2], found[3], 0x0042), 0x5410);
  out.of[2] = skinny::byte_permute(found[1], found[3], 0x6521);
}

__device__ inline void load_metadata(Metadata<6>& out, Shared codes, Shared table) {
  const uint32_t low = load4(codes + threadIdx.x % 32 * 4);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t upper = load4(table + ((i == 0 ? low << 2 : low >> 14) & 0x3fc));
    const uint32_t lower = load4(table + (low >> (16 * i + 6) & 0x3fc));
    out.of[i] = skinny::byte_permute(upper, lower, 0x5410);
  }
}

// Where a lane reads the pairs of x of its windows.
template <class S>
struct Gather {
  Shared a, b;

  __device__ explicit Gather(Shared x) {
    const int lane = threadIdx.x % 32, odd_group = lane / 2 % 2, odd_lane = lane % 2;
    const Shared row = x + lane / 4 * S::x_pitch;
    if constexpr (S::P::block == 8) {
      a = row + 4 * (16 * odd_group + odd_lane + 2 * odd_group);
      b = row + 4 * (16 * odd_group + odd_lane + 2 - 2 * odd_group);
    } else {
      a = row + 4 * (6 * odd_group + odd_lane);
      b = row + 4 * (6 * odd_group + 2 - odd_lane);
    }
  }
};

template <class T, class S, int Step>
__device__ inline void multiply_step(float (&sums)[S::tiles][S::m_tiles][4], Shared slabs, const uint32_t (&x)[S::m_tiles][4],
                                     const Metadata<S::P::block> (&metadata)[S::tiles]) {
  constexpr int selector = S::P::block == 8 ? Step / 3 : Step % 2, word = S::P::block == 8 ? Step % 3 : Step / 2;
#pragma unroll
  for (int t = 0; t < S::tiles; ++t) {
    uint32_t w[4];
    load16(w, slabs + t * S::row_warps * S::P::slab_bytes + Step * 512);
#pragma unroll
    for (int j = 0; j < S::m_tiles; ++j) skinny::multiply_add<T, selector>(sums[t][j], w, x[j], metadata[t].of[word]);
  }
}

template <class T, class S, int Step>
__device__ inline void multiply_six(float (&sums)[S::tiles][S::m_tiles][4], Shared slabs, const Gather<S>& x,
                                    const Metadata<6> (&metadata)[S::tiles]) {
  uint32_t pairs[S::m_tiles][4];
#pragma unroll
  for (int j = 0; j < S::m_tiles; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      pairs[j][i] = load4((i % 2 ? x.b : x.a) + j * 8 * S::x_pitch + 4 * (12 * Step + 3 * (i / 2)));
  multiply_step<T, S, Step>(sums, slabs, pairs, metadata);
}

// Half a unit: the three steps that share 64 columns.
template <class T, class S, int Half>
__device__ inline void multiply_eight(float (&sums)[S::tiles][S::m_tiles][4], Shared slabs, const Gather<S>& x,
                                      const Metadata<8> (&metadata)[S::tiles]) {
  uint32_t of[S::m_tiles][4][3];  // the pairs of each block's windows
  const bool odd = threadIdx.x % 2;
#pragma unroll
  for (int j = 0; j < S::m_tiles; ++j)
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const int at = j * 8 * S::x_pitch + 4 * (32 * Half + 4 * b);
      of[j][b][0] = load4(x.a + at);
      of[j][b][2] = load4(x.b + at);
      of[j][b][1] = odd ? of[j][b][0] : of[j][b][2];
    }
  const auto step = [&](auto number) {
    constexpr int s = decltype(number)::value;
    uint32_t pairs[S::m_tiles][4];
#pragma unroll
    for (int j = 0; j < S::m_tiles; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int u = 2 * s + i % 2;
        pairs[j][i] = of[j][i / 2 * 2 + u / 3][u % 3];
      }
    multiply_step<T, S, 3 * Half + s>(sums, slabs, pairs, metadata);
  };
  step(std::integral_constant<int, 0>{});
  step(std::integral_constant<int, 1>{});
  step(std::integral_constant<int, 2>{});
}

template <class T, class S>
__device__ inline void multiply_stage(float (&sums)[S::tiles][S::m_tiles][4], Shared slot, Shared table) {
  using P = typename S::P;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Shared slabs = slot + warp * P::slab_bytes;
  Metadata<P::block> metadata[S::tiles];
#pragma unroll
  for (int t = 0; t < S::tiles; ++t)
    load_metadata(metadata[t], slabs + t * S::row_warps * P::slab_bytes + P::value_bytes, table);
  const Gather<S> x(slot + S::w_bytes);
  const Shared mine = slabs + lane * 16;
  if constexpr (P::block == 8) {
    multiply_eight<T, S, 0>(sums, mine, x, metadata);
    multiply_eight<T, S, 1>(sums, mine, x, metadata);
  } else {
    multiply_six<T, S, 0>(sums, mine, x, metadata);
    multiply_six<T, S, 1>(sums, mine, x, metadata);
    multiply_six<T, S, 2>(sums, mine, x, metadata);
    multiply_six<T, S, 3>(sums, mine, x, metadata);
  }
}

// Adds up the shares that several blocks have of a strip's sums. Returns whether this warp is the last: then it has all.
// No warp waits for another, because the kernels of two streams may each have only some of their blocks on the GPU.
template <class S>
__device__ inline bool meet_others(const DecodeCall& c, float (&sums)[S::tiles][S::m_tiles][4], int strip, int first, int last) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // A block has a share of the strip that its stretch begins with, and of the one that it ends with.
  const auto share_of = [&](int block) {
    const bool begins = first_stage(c, block) / c.units == strip;
    const int64_t at = ((int64_t(blockIdx.y) * gridDim.x + block) * 2 + !begins) * S::row_warps + warp;
    return reinterpret_cast<float4*>(c.p.partials + at * S::partial_floats) + lane;
  };
  float4* mine = share_of(blockIdx.x);
#pragma unroll
  for (int t = 0; t < S::tiles; ++t)
#pragma unroll
    for (int j = 0; j < S::m_tiles; ++j) {
      const float* s = sums[t][j];
      mine[(t * S::m_tiles + j) * 32] = {s[0], s[1], s[2], s[3]};
    }
  __threadfence();
  __syncwarp();
  bool is_last = false;
  if (lane == 0) {
    uint64_t* counter = c.counters + (int64_t(blockIdx.y) * c.strips + strip) * S::row_warps + warp;
    const uint64_t seen = skinny::load_acquiring(counter);
    if ((seen ^ c.tag) >> 8) skinny::replace(counter, seen, c.tag);
    is_last = skinny::count(counter) == c.tag + (last - first);
    if (is_last) *counter = c.tag;  // for the next launch
  }
  if (!__shfl_sync(~0u, is_last, 0)) return false;
  __threadfence();
#pragma unroll
  for (int t = 0; t < S::tiles; ++t)
#pragma unroll
    for (int j = 0; j < S::m_tiles; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[t][j][i] = 0;
  for (int block = first; block <= last; ++block) {
    const float4* theirs = share_of(block);
    float4 part[S::tiles][S::m_tiles];
#pragma unroll
    for (int t = 0; t < S::tiles; ++t)
#pragma unroll
      for (int j = 0; j < S::m_tiles; ++j) part[t][j] = __ldcg(theirs + (t * S::m_tiles + j) * 32);
#pragma unroll
    for (int t = 0; t < S::tiles; ++t)
#pragma unroll
      for (int j = 0; j < S::m_tiles; ++j) {
        sums[t][j][0] += part[t][j].x, sums[t][j][1] += part[t][j].y;
        sums[t][j][2] += part[t][j].z, sums[t][j][3] += part[t][j].w;
      }
  }
  return true;
}

// From a warp's whole sums to y, eight rows of x at a time.
template <class T, class S>
__device__ inline void finish_rows(const DecodeCall& c, const float (&sums)[S::tiles][S::m_tiles][4], int strip, float* staged) {
  const skinny::Product& p = c.p;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, ns = p.gated ? p.n / 2 : p.n;
#pragma unroll
  for (int j = 0; j < S::m_tiles; ++j) {
#pragma unroll
    for (int t = 0; t < S::tiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        staged[(lane % 4 * 2 + i % 2) * S::sum_pitch + 16 * t + lane / 4 + i / 2 * 8] = sums[t][j][i];
    __syncwarp();
    const int across = p.gated ? S::tiles : 2 * S::tiles;
    for (int item = lane; item < 8 * across; item += 32) {
      const int row = item / across, eight = item % across, m = blockIdx.y * S::m_rows + 8 * j + row;
      const int n = row_of<S>(p, strip, eight / 2 * S::row_warps + warp) + eight % 2 * 8;
      if (m >= p.m || n >= ns) continue;
      const float* from = staged + row * S::sum_pitch + 8 * eight;
      const Eight sum = skinny::load_floats(from);
      if (p.gated) skinny::finish_gated<T, false>(p, sum, skinny::load_floats(from + S::sum_pitch / 2 - 2), m, n);
      else skinny::finish<T, false>(p, sum, m, n);
    }
    __syncwarp();
  }
}

template <class T, class S>
__device__ inline void end_strip(const DecodeCall& c, float (&sums)[S::tiles][S::m_tiles][4], const Stretch& work, int strip) {
  const int begin = strip * c.units, end = begin + c.units;
  wait_for_previous_kernel();  // it may still read what y and the shares overwrite
  if ((work.first <= begin && end <= work.last) ||
      meet_others<S>(c, sums, strip, block_of(c, begin), block_of(c, end - 1))) {
    auto* staged = reinterpret_cast<float*>(skinny::shared_memory() + c.slots * S::stage_bytes + S::table_bytes);
    finish_rows<T, S>(c, sums, strip, staged + threadIdx.x / 32 * (S::sum_bytes / 4));
  }
#pragma unroll
  for (int t = 0; t < S::tiles; ++t)
#pragma unroll
    for (int j = 0; j < S::m_tiles; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[t][j][i] = 0;
}

template <class T, class S>
__device__ inline void consume(const DecodeCall& c, const Room& room) {
  const Stretch work = stretch_of(c);
  const int warp = threadIdx.x / 32;
  float sums[S::tiles][S::m_tiles][4] = {};
  Turn turn;
  for (Walk walk(c, work); walk.left > 0; walk.advance(c)) {
    wait_until(room.full + 8 * turn.slot, turn.parity);
    // A strip at the end may have fewer rows, and a warp without any reads none of what was not loaded.
    if (row_of<S>(c.p, walk.strip, warp) < c.p.n)
      multiply_stage<T, S>(sums, room.ring + turn.slot * S::stage_bytes, room.table);
    __syncwarp();
    if (threadIdx.x % 32 == 0) skinny::arrive(room.empty + 8 * turn.slot);
    turn.advance(c.slots);
    if (walk.ends(c)) end_strip<T, S>(c, sums, work, walk.strip);
  }
}

// Grid: blocks that each take a stretch × groups of S::m_rows rows of x.
template <class T, class S>
__global__ void __launch_bounds__(S::threads, S::per_sm) multiply_blocks(const __grid_constant__ DecodeCall c) {
  const Room room = room_of<S>(c);
  const int warp = threadIdx.x / 32;
  let_next_kernel_start();
  if (threadIdx.x == 0) {
    for (int s = 0; s < c.slots; ++s) {
      skinny::init_barrier(room.full + 8 * s, kWeightLanes + 32);
      skinny::init_barrier(room.empty + 8 * s, S::row_warps);
    }
#if __CUDA_ARCH__ >= 900
    skinny::publish_barriers();
#endif
  }
  __syncthreads();
  if (warp == S::row_warps) produce_weight<S>(c, room);
  else if (warp > S::row_warps) produce_rows<S>(c, room);
  else {
    auto* table = reinterpret_cast<uint32_t*>(skinny::shared_memory() + c.slots * S::stage_bytes);
    fill_table<S>(table);
    consume<T, S>(c, room);
  }
}

}  // namespace sparseflow::cuda::patterns
