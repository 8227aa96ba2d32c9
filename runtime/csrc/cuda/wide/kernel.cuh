// y = activation(x8 · W8ᵀ ∘ scales + bias) + residual by sparse wgmma in e4m3, for many rows of x.
//
// Rows of W are wgmma's M, rows of x its N: a block computes tiles of S::rows × S::columns, each group of four warps 64
// rows of them. A thread of the last group only issues copies of stages of 128 in K to a ring. With shares, the blocks of a
// cluster share out K, and add their sums through each other's memory.
#pragma once

#include "../approximate_instructions.cuh"
//
#include "../approximate.cuh"
#include "../skinny/hopper_device.cuh"
#include "../skinny/kernel.cuh"
#include "tile.h"
#include "wgmma.cuh"

namespace sparseflow::cuda::wide {

using skinny::Bf16, skinny::Fp16, skinny::Shared, skinny::Eight;

template <int Groups, int Columns, int PerSm, int Shares>
struct TileShape {
  static constexpr int groups = Groups, columns = Columns, per_sm = PerSm;
  static constexpr int shares = Shares;
  static constexpr int rows = 64 * Groups;
  static constexpr int threads = 128 * Groups + 128;
  // Registers a thread: as launched, then of the copying and of the multiplying groups.
  static constexpr int registers = 65536 / PerSm / threads / 8 * 8 < 168 ? 65536 / PerSm / threads / 8 * 8 : 168;
  static constexpr int few = Groups > 2 || PerSm > 2 ? 32 : 40, room = (registers * threads - few * 128) / (128 * Groups) / 8 * 8;
  static constexpr int many = room < 240 ? room : 240;
  static constexpr int value_bytes = rows * kStageK / 2, x_bytes = columns * kStageK;
  static constexpr int position_bytes = rows * kStageK / 8;
  static constexpr int stage_bytes = value_bytes + x_bytes + position_bytes;
  // Of a group for its end: for each warp kChunk rows of y by 32 bytes, then the scales of x, those of W's rows and the bias.
  static constexpr int warp_bytes = kChunk * 32, end_bytes = 4 * warp_bytes + Columns * 4 + 64 * 8;
  static constexpr int staging_bytes = Groups * end_bytes;
  static constexpr int sum_bytes = Shares > 1 ? rows * columns * 4 : 0;
};

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ inline void copy_rows(Shared to, const CUtensorMap& map, int k, int row, Shared bar) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(k), "r"(row), "r"(bar)
      : "memory");
}

// Copies rows of W by sixteens.
__device__ inline void copy_sixteens(Shared to, const CUtensorMap& map, int k, int sixteen, Shared bar) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %5, %5, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(k), "r"(sixteen), "r"(bar), "r"(0)
      : "memory");
}

__device__ inline void copy_linear(Shared to, const void* from, int bytes, Shared bar) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
      "r"(bytes), "r"(bar)
      : "memory");
}

__device__ inline void store_transposed(Shared row, const uint32_t (&v)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(v[0]), "r"(v[1]),
               "r"(v[2]), "r"(v[3])
               : "memory");
}

__device__ inline void load_transposed(uint32_t (&v)[4], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(row)
               : "memory");
}

__device__ inline void sync_group(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

template <int Registers>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

struct Ring {
  Shared base, full, empty, staging;
};

template <class S>
__device__ inline Ring ring_of(const TileCall& c) {
  const Shared base = (skinny::shared_address(skinny::shared_memory()) + 1023) & ~1023u;
  const Shared staging = base + max(c.slots * S::stage_bytes, S::sum_bytes), full = staging + S::staging_bytes;
  return {base, full, full + 8 * c.slots, staging};
}

struct Slot {
  int index = 0;
  uint32_t parity = 0;

  __device__ void advance(int slots) {
    if (++index == slots) index = 0, parity ^= 1;
  }
};

// The stages and tiles that a block works on.
template <class S>
struct Work {
  int share, first_stage, last_stage, tile, step;

  __device__ explicit Work(const TileCall& c) {
    share = S::shares > 1 ? cluster_rank() : 0;
    tile = blockIdx.x / S::shares;
    step = gridDim.x / S::shares;
    first_stage = c.stages * share / S::shares;
    last_stage = c.stages * (share + 1) / S::shares;
  }
};

struct Place {
  int w, x;  // indices of this block's tile
};

__device__ inline Place place_of(const TileCall& c, int tile) {
  const int per_band = c.band * c.w_tiles, band = tile / per_band, within = tile % per_band;
  const int width = min(c.band, c.x_tiles - band * c.band);
  return {within / width, band * c.band + within % width};
}

template <class S>
__device__ inline void copy_w(const TileCall& c, const Place& at, int stage, Shared slot, Shared bar) {
  copy_sixteens(slot, c.values, stage * (kStageK / 2), at.w * S::rows / 16, bar);
  constexpr int bytes = kStageK * 8;
  const int64_t first = int64_t(stage) * bytes;
  const int take = static_cast<int>(min(int64_t(bytes), c.strip_bytes - first));
#pragma unroll
  for (int g = 0; g < S::groups; ++g) {
    int strip = at.w * S::groups + g;
    if (c.gated) strip = at.w * (S::groups / 2) + (g < S::groups / 2 ? g : g - S::groups / 2 + c.up_strip);
    strip = min(strip, c.strips - 1);
    copy_linear(slot + S::value_bytes + S::x_bytes + g * bytes, c.positions + strip * c.strip_bytes + first, take, bar);
  }
}

template <class S>
__device__ inline int bytes_of(const TileCall& c, int stage) {
  const int64_t bytes = kStageK * 8, left = c.strip_bytes - stage * bytes;
  return S::value_bytes + S::x_bytes + S::groups * static_cast<int>(min(bytes, left));
}

// The first stages of W are loaded before the previous kernel is done, which may still write x.
template <class S>
__device__ inline void produce(const TileCall& c, const Work<S>& work, const Ring& ring) {
  const int tiles = c.w_tiles * c.x_tiles;
  const int early = min(c.slots, work.last_stage - work.first_stage);
  Slot slot;
  for (int tile = work.tile; tile < tiles; tile += work.step) {
    const Place at = place_of(c, tile);
    const bool first = tile == work.tile;
    if (first) {
      for (int s = 0; s < early; ++s) {
        const Shared bar = ring.full + 8 * s;
        skinny::arrive_expecting(bar, bytes_of<S>(c, work.first_stage + s));
        copy_w<S>(c, at, work.first_stage + s, ring.base + s * S::stage_bytes, bar);
      }
      skinny::wait_for_previous();
    }
    for (int stage = work.first_stage; stage < work.last_stage; ++stage) {
      const Shared bar = ring.full + 8 * slot.index, to = ring.base + slot.index * S::stage_bytes;
      if (!first || stage - work.first_stage >= early) {
        skinny::wait_for(ring.empty + 8 * slot.index, slot.parity ^ 1);
        skinny::arrive_expecting(bar, bytes_of<S>(c, stage));
        copy_w<S>(c, at, stage, to, bar);
      }
      copy_rows(to + S::value_bytes, c.x, stage * kStageK, at.x * S::columns, bar);
      slot.advance(c.slots);
    }
  }
}

// Where a lane finds its positions: 16 bytes, in which it takes one of each word (Layout::nibble).
struct Positions {
  int offset;
  uint32_t selector;
};

template <class S>
__device__ inline Positions positions_of(bool gated, int group) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, low = lane >> 2, half = lane >> 1 & 1, odd = lane & 1;
  constexpr int strip_bytes = kStageK * 8;
  int strip = group, row = warp * 16 + odd * 8;
  if (gated) {
    row = group * 32 + warp * 8;
    strip = row / 64 + odd * (S::groups / 2);
    row %= 64;
  }
  const uint32_t byte = half * 2 + (row >> 3 & 1);
  return {S::value_bytes + S::x_bytes + strip * strip_bytes + (row >> 4) * 128 + low * 16, byte | (4 + byte) << 4};
}

__device__ inline uint32_t load_positions(Shared from, uint32_t selector) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
  return __byte_perm(__byte_perm(v.x, v.y, selector), __byte_perm(v.z, v.w, selector), 0x5410);
}

__device__ inline void release(Shared bar) {
  if (threadIdx.x % 32 == 0) skinny::arrive(bar);
}

template <class S>
__device__ inline void consume(float (&d)[S::columns / 2], const TileCall& c, const Work<S>& work, const Ring& ring, Slot& slot,
                               const Positions& mine, int group) {
  uint32_t even[2] = {}, odd[2] = {};
  int before = -1;
  const auto step = [&](uint32_t (&now)[2], const uint32_t (&running)[2], int more) {
    skinny::wait_for(ring.full + 8 * slot.index, slot.parity);
    const Shared at = ring.base + slot.index * S::stage_bytes;
    now[0] = load_positions(at + mine.offset, mine.selector);
    now[1] = load_positions(at + mine.offset + 512, mine.selector);
    const uint64_t w = skinny::matrix_at<64>(at + group * 64 * (kStageK / 2));
    const uint64_t x = skinny::matrix_at<128>(at + S::value_bytes);
    skinny::begin_wgmma();
    multiply_add<S::columns>(d, w, x, now[0], more);
    multiply_add<S::columns>(d, skinny::matrix_behind(w, 32), skinny::matrix_behind(x, 64), now[1], 1);
    skinny::end_wgmma();
    skinny::wait_for_wgmma<1>();
    skinny::keep(running[0]);
    skinny::keep(running[1]);
    if (before >= 0) release(ring.empty + 8 * before);
    before = slot.index;
    slot.advance(c.slots);
  };
  int stage = work.first_stage;
  for (; stage + 1 < work.last_stage; stage += 2) {
    step(even, odd, stage != work.first_stage);
    step(odd, even, 1);
  }
  if (stage < work.last_stage) step(even, odd, stage != work.first_stage);
  skinny::wait_for_wgmma<0>();
  skinny::keep(even[0]), skinny::keep(even[1]), skinny::keep(odd[0]), skinny::keep(odd[1]);
  if (before >= 0) release(ring.empty + 8 * before);
}

// Adds the sums of the cluster's blocks; a block keeps its share of the columns. The copying group only syncs.
template <class S>
__device__ inline void meet(float (&d)[S::columns / 2], const Work<S>& work, Shared base) {
  constexpr int each = S::columns / 2 / S::shares, threads = 128 * S::groups;
  const Shared mine = base + threadIdx.x * 4;
#pragma unroll
  for (int i = 0; i < S::columns / 2; ++i)
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(mine + i * threads * 4), "f"(d[i]) : "memory");
  skinny::sync_cluster();
  Shared from[S::shares];
#pragma unroll
  for (int s = 0; s < S::shares; ++s)
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(from[s]) : "r"(mine + work.share * each * threads * 4), "r"(s));
#pragma unroll
  for (int i = 0; i < each; ++i) {
    float sum = 0;
#pragma unroll
    for (int s = 0; s < S::shares; ++s) {
      float v;
      asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(from[s] + i * threads * 4) : "memory");
      sum += v;
    }
    d[i] = sum;
  }
}

__device__ inline float widened(uint16_t bits, bool half) {
  return half ? skinny::to_float<Fp16>(bits) : skinny::to_float<Bf16>(bits);
}

__device__ inline uint32_t narrowed(float a, float b, bool half) {
  uint32_t pair;
  if (half) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
  else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
  return pair;
}

__device__ inline void store_float(Shared to, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(v) : "memory");
}

__device__ inline float load_float(Shared from) { return __uint_as_float(skinny::load4(from)); }

__device__ inline uint4 load16(Shared from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
  return v;
}

__device__ inline void store16(Shared to, const uint4& v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// The part of y that a group writes, and its shared memory: S::end_bytes.
template <class S, int Columns>
struct End {
  int n, m;  // its first column and row in y
  Shared staging;

  __device__ Shared scales_of_x() const { return staging + 4 * S::warp_bytes; }
  __device__ Shared scales() const { return scales_of_x() + S::columns * 4; }
  __device__ Shared bias() const { return scales() + 64 * 4; }
};

__device__ inline float load_global(const float* from) {
  float v;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(from) : "memory");
  return v;
}

__device__ inline uint16_t load_global(const uint16_t* from) {
  uint16_t v;
  asm volatile("ld.global.u16 %0, [%1];" : "=h"(v) : "l"(from) : "memory");
  return v;
}

// The scales and the bias of a group's part of y, one or a few in each of its threads: they are read before the sums are
// made and laid out after, so that nothing waits for them.
template <int Columns>
struct Factors {
  static constexpr int each = (Columns + 127) / 128;
  float of_x[each], scale = 1;
  uint16_t bias = 0;  // as it lies in memory: converting it would wait for it

  template <class S>
  __device__ Factors(const TileCall& c, const End<S, Columns>& end) {
    const int thread = threadIdx.x % 128, local = thread % 64, odd = local >> 3 & 1;
#pragma unroll
    for (int i = 0; i < each; ++i) {
      const int m = end.m + i * 128 + thread;
      of_x[i] = 1;
      if (c.x_scale && m < c.m) of_x[i] = load_global(c.x_scale + m);
    }
    const int column = end.n + (c.gated ? (local >> 4) * 8 + (local & 7) : local), row = column + (c.gated && odd ? c.n : 0);
    if (column >= c.n) return;
    if (thread < 64 && c.w_scale) scale = load_global(c.w_scale + row);
    if (thread >= 64 && c.bias) bias = load_global(static_cast<const uint16_t*>(c.bias) + row);
  }

  template <class S>
  __device__ void lay_out(const End<S, Columns>& end, bool half, int group) const {
    const int thread = threadIdx.x % 128;
    sync_group(group);  // no warp reads those of the tile before any more
#pragma unroll
    for (int i = 0; i < each; ++i)
      if (i * 128 + thread < Columns) store_float(end.scales_of_x() + (i * 128 + thread) * 4, of_x[i]);
    store_float(end.scales() + thread * 4, thread < 64 ? scale : widened(bias, half));
    sync_group(group);
  }
};

// What the sums of a row of W are multiplied by, and what is added to them then.
struct OfRow {
  float scale, bias;
};

template <class S, int Columns>
__device__ inline OfRow of_row(const End<S, Columns>& end, int odd) {
  const int local = threadIdx.x / 32 % 4 * 16 + odd * 8 + threadIdx.x % 32 / 4;
  return {load_float(end.scales() + local * 4), load_float(end.bias() + local * 4)};
}

// A lane's eight results of 16 rows of y, two tiles of 8 with four each as m16n8 has them.
__device__ inline Eight scaled(const float* sums, Shared of_x, const OfRow& low, const OfRow& high) {
  Eight y;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const uint2 words = skinny::load8(of_x + (tile * 8 + threadIdx.x % 4 * 2) * 4);
    const float x[2] = {__uint_as_float(words.x), __uint_as_float(words.y)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const OfRow& row = i < 2 ? low : high;
      y.v[tile * 4 + i] = sums[tile * 4 + i] * row.scale * x[i % 2] + row.bias;
    }
  }
  return y;
}

// Where a warp keeps 16 bytes of a row of y: rows of 32 bytes, swizzled so that eight rows' same pieces, and whole rows,
// lie in different banks. With a gate a row has 16 bytes only.
__device__ inline Shared piece_of(Shared mine, bool gated, int row, int piece) {
  return mine + (gated ? row * 16 : row * 32 + ((piece ^ (row >> 2 & 1)) << 4));
}

// Rows of y in a warp's memory from a lane's results of two times 16 rows.
template <int Rows>
__device__ inline void lay_out(const float* sums, const TileCall& c, Shared mine, Shared of_x, const OfRow& low, const OfRow& high) {
  const int lane = threadIdx.x % 32, matrix = lane / 8;
#pragma unroll
  for (int j = 0; j < Rows; j += 16) {
    Eight y = activated_approximately(scaled(sums + j / 2, of_x + j * 4, low, high), c.activation);
    const Shared at = piece_of(mine, false, j + matrix / 2 * 8 + lane % 8, matrix % 2);
    if (c.residual) {
      uint32_t r[4];
      load_transposed(r, at);
#pragma unroll
      for (int i = 0; i < 8; ++i) y.v[i] += widened(static_cast<uint16_t>(r[i / 2] >> 16 * (i % 2)), c.half);
    }
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = narrowed(y.v[2 * i], y.v[2 * i + 1], c.half);
    store_transposed(at, words);
  }
}

// With a gate: a lane's pairs are those of the gate and of the other half in turns.
template <int Rows>
__device__ inline void lay_out_gated(const float* sums, const TileCall& c, Shared mine, Shared of_x, const OfRow& gate, const OfRow& up) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    // Of 16 rows the other two matrices aren't written.
    const int from = i * 8 < Rows ? i * 8 : 0;
    const Eight y = scaled(sums + from / 2, of_x + from * 4, gate, up);
    Eight g;
#pragma unroll
    for (int e = 0; e < 8; ++e) g.v[e] = y.v[e / 4 * 4 + e % 2];
    g = activated_approximately(g, c.activation);
    words[i] = narrowed(g.v[0] * y.v[2], g.v[1] * y.v[3], c.half);
    words[i + 1] = narrowed(g.v[4] * y.v[6], g.v[5] * y.v[7], c.half);
  }
  store_transposed(piece_of(mine, true, threadIdx.x % 32, 0), words);
}

// Calls visit(where in the warp's memory, index in y) for the pieces of 16 bytes of a warp's rows of y.
template <int Rows, class Visit>
__device__ inline void for_pieces(const TileCall& c, Shared mine, int n, int m, Visit visit) {
  const int lane = threadIdx.x % 32, pieces = c.gated ? 1 : 2;
#pragma unroll
  for (int i = 0; i < Rows * 2; i += 32) {
    const int at = i + lane, row = c.gated ? at : at / 2, piece = c.gated ? 0 : at % 2;
    if (at < Rows * pieces && m + row < c.m && n + piece * 8 < c.n)
      visit(piece_of(mine, c.gated, row, piece), int64_t(m + row) * c.n + n + piece * 8);
  }
}

// Writes a group's part of y, each warp 8 or 16 columns of it.
template <class S, int Columns>
__device__ inline void finish(const TileCall& c, const float* d, const End<S, Columns>& end) {
  static_assert(Columns % 16 == 0);
  const int warp = threadIdx.x / 32 % 4, n = end.n + warp * (c.gated ? 8 : 16);
  const Shared mine = end.staging + warp * S::warp_bytes;
  const OfRow low = of_row(end, 0), high = of_row(end, 1);
#pragma unroll
  for (int first = 0; first < Columns; first += kChunk) {
    constexpr int last = Columns % kChunk;
    const auto chunk = [&](auto rows) {
      constexpr int count = decltype(rows)::value;
      const int m = end.m + first;
      const Shared of_x = end.scales_of_x() + first * 4;
      __syncwarp();
      if (c.residual) {
        for_pieces<count>(c, mine, n, m, [&](Shared at, int64_t index) {
          store16(at, *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(c.residual) + index));
        });
        __syncwarp();
      }
      if (c.gated) lay_out_gated<count>(d + first / 2, c, mine, of_x, low, high);
      else lay_out<count>(d + first / 2, c, mine, of_x, low, high);
      __syncwarp();
      for_pieces<count>(c, mine, n, m, [&](Shared at, int64_t index) {
        *reinterpret_cast<uint4*>(static_cast<uint16_t*>(c.y) + index) = load16(at);
      });
    };
    if (first + kChunk <= Columns) chunk(std::integral_constant<int, kChunk>());
    else if constexpr (last > 0) chunk(std::integral_constant<int, last>());
  }
}

template <class S>
__device__ inline void multiply(const TileCall& c, const Work<S>& work, const Ring& ring, int group) {
  constexpr int each = S::columns / S::shares;
  const Positions mine = positions_of<S>(c.gated, group);
  const int tiles = c.w_tiles * c.x_tiles;
  skinny::wait_for_previous();
  Slot slot;
  for (int tile = work.tile; tile < tiles; tile += work.step) {
    float d[S::columns / 2];
    const Place at = place_of(c, tile);
    const End<S, each> end{(at.w * S::groups + group) * (c.gated ? 32 : 64),
                           at.x * S::columns + work.share * each, ring.staging + group * S::end_bytes};
    const Factors<each> factors(c, end);
    consume<S>(d, c, work, ring, slot, mine, group);
    if constexpr (S::shares > 1) {
      asm volatile("bar.sync 15, %0;" ::"n"(128 * S::groups) : "memory");  // no group reads the ring any more
      meet<S>(d, work, ring.base);
    }
    factors.lay_out(end, c.half, group);
    finish(c, d, end);
  }
}

// With shares a cluster multiplies one tile only: its sums lie where the ring was.
template <class S>
__global__ void __launch_bounds__(S::threads, S::per_sm) multiply_tiles(const __grid_constant__ TileCall c) {
  const Ring ring = ring_of<S>(c);
  const Work<S> work(c);
  const int group = threadIdx.x / 128;
  skinny::let_next_start();
  if (threadIdx.x == 0) {
    skinny::prefetch_map(c.values);
    skinny::prefetch_map(c.x);
    for (int s = 0; s < c.slots; ++s) {
      skinny::init_barrier(ring.full + 8 * s, 1);
      skinny::init_barrier(ring.empty + 8 * s, 4 * S::groups);
    }
    skinny::publish_barriers();
  }
  if constexpr (S::shares > 1) skinny::sync_cluster();
  else __syncthreads();
  // The groups' paths share no code, because they have different numbers of registers.
  if (group == S::groups) {
    give_registers<S::few>();
    if (threadIdx.x % 128 == 0) produce<S>(c, work, ring);
    __syncwarp();
    if constexpr (S::shares > 1) skinny::sync_cluster();  // of meet
  } else {
    take_registers<S::many>();
    multiply<S>(c, work, ring, group);
  }
  if constexpr (S::shares > 1) skinny::sync_cluster();  // no block exits while others write or read its memory
}

}  // namespace sparseflow::cuda::wide
