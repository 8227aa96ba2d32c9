// y = activation(x8 · W8ᵀ ∘ scales + bias) + residual by sparse wgmma in e4m3, for many rows of x.
//
// Rows of W are wgmma's M, rows of x its N: a block computes tiles of S::rows × S::columns, each group of four warps 64
// rows of them. A thread of the last group only issues copies of stages of 128 in K to a ring. Blocks of a cluster that need the same
// rows of x, or of W, load a part of them each, for all of them. Or the blocks of a cluster share out K, and add their
// sums through each other's memory.
#pragma once

#include "../skinny/hopper_device.cuh"
#include "../skinny/kernel.cuh"
#include "tile.h"
#include "wgmma.cuh"

namespace sparseflow::cuda::fp8_tiles {

using skinny::Bf16, skinny::Fp16, skinny::Shared, skinny::Eight;

constexpr int kStageK = 128;
constexpr int kChunk = 32;  // rows of y that are laid out at a time

template <int Groups, int Columns, int PerSm, int AlongW, int AlongX, int Shares>
struct TileShape {
  static constexpr int groups = Groups, columns = Columns, per_sm = PerSm;
  static constexpr int along_w = AlongW, along_x = AlongX, shares = Shares;
  static constexpr int cluster = AlongW * AlongX * Shares;
  static_assert(Shares == 1 || AlongW * AlongX == 1);
  static constexpr int rows = 64 * Groups, threads = 128 * Groups + 128;
  // Registers a thread: as launched, then of the copying and of the multiplying groups.
  static constexpr int registers = 65536 / PerSm / threads / 8 * 8 < 168 ? 65536 / PerSm / threads / 8 * 8 : 168;
  static constexpr int few = Groups > 2 || PerSm > 2 ? 32 : 40, room = (registers * threads - few * 128) / (128 * Groups) / 8 * 8;
  static constexpr int many = room < 240 ? room : 240;
  static constexpr int value_bytes = rows * kStageK / 2, x_bytes = columns * kStageK;
  static constexpr int position_bytes = rows * kStageK / 8;
  static constexpr int stage_bytes = value_bytes + x_bytes + position_bytes;
  static constexpr int chunk_bytes = kChunk * 128, staging_bytes = Groups * 2 * chunk_bytes;
  static constexpr int sum_bytes = Shares > 1 ? rows * columns * 4 : 0;
};

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ inline void arrive_at(Shared bar, int rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(bar),
      "r"(rank)
      : "memory");
}

__device__ inline void wait_for_cluster(Shared bar, uint32_t parity) {
  uint32_t done = 0;
  while (!done)
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(bar), "r"(parity)
        : "memory");
}

template <bool Multicast>
__device__ inline void copy_rows(Shared to, const CUtensorMap& map, int k, int row, Shared bar, uint16_t mask) {
  if constexpr (Multicast)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(&map), "r"(k), "r"(row), "r"(bar), "h"(mask)
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
            "r"(to),
        "l"(&map), "r"(k), "r"(row), "r"(bar)
        : "memory");
}

template <bool Multicast>
__device__ inline void copy_sixteens(Shared to, const CUtensorMap& map, int k, int sixteen, Shared bar, uint16_t mask) {
  if constexpr (Multicast)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %5, %5, %3}], [%4], %6;" ::"r"(to),
        "l"(&map), "r"(k), "r"(sixteen), "r"(bar), "r"(0), "h"(mask)
        : "memory");
  else
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

__device__ inline void store_box(const CUtensorMap& map, int column, int row, Shared from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(column), "r"(row), "r"(from)
      : "memory");
}

template <int Pending>
__device__ inline void wait_for_reads() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
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
  int rank, first_stage, last_stage, tile, step;

  __device__ explicit Work(const TileCall& c) {
    rank = S::cluster > 1 ? cluster_rank() : 0;
    tile = blockIdx.x / S::cluster;
    step = gridDim.x / S::cluster;
    const int share = S::shares > 1 ? rank : 0;
    first_stage = c.stages * share / S::shares;
    last_stage = c.stages * (share + 1) / S::shares;
  }
  __device__ int along_w() const { return S::shares > 1 ? 0 : rank % S::along_w; }
  __device__ int along_x() const { return S::shares > 1 ? 0 : rank / S::along_w; }
};

struct Place {
  int w, x;  // indices of this block's tile
};

template <class S>
__device__ inline Place place_of(const TileCall& c, const Work<S>& work, int tile) {
  const int per_band = c.band * c.w_tiles, band = tile / per_band, within = tile % per_band;
  const int width = min(c.band, c.x_tiles - band * c.band);
  return {within / width * S::along_w + work.along_w(), (band * c.band + within % width) * S::along_x + work.along_x()};
}

template <class S, bool Gated>
__device__ inline void copy_w(const TileCall& c, const Work<S>& work, const Place& at, int stage, Shared slot, Shared bar) {
  constexpr int part = S::rows / S::along_x;
  const uint16_t mask = ((1u << S::along_x * S::along_w) - 1) / ((1u << S::along_w) - 1) << work.along_w();
  copy_sixteens<(S::along_x > 1)>(slot + work.along_x() * part * (kStageK / 2), c.values, stage * (kStageK / 2),
                                  (at.w * S::rows + work.along_x() * part) / 16, bar, mask);
  constexpr int bytes = kStageK * 8;
  const int64_t first = int64_t(stage) * bytes;
  const int take = static_cast<int>(min(int64_t(bytes), c.strip_bytes - first));
#pragma unroll
  for (int g = 0; g < S::groups; ++g) {
    int strip = at.w * S::groups + g;
    if constexpr (Gated) strip = at.w * (S::groups / 2) + g % (S::groups / 2) + (g >= S::groups / 2 ? c.up_strip : 0);
    strip = min(strip, c.strips - 1);
    copy_linear(slot + S::value_bytes + S::x_bytes + g * bytes, c.positions + strip * c.strip_bytes + first, take, bar);
  }
}

template <class S>
__device__ inline void copy_x(const TileCall& c, const Work<S>& work, const Place& at, int stage, Shared slot, Shared bar) {
  constexpr int part = S::columns / S::along_w;
  const uint16_t mask = ((1u << S::along_w) - 1) << work.along_x() * S::along_w;
  copy_rows<(S::along_w > 1)>(slot + S::value_bytes + work.along_w() * part * kStageK, c.x, stage * kStageK,
                              at.x * S::columns + work.along_w() * part, bar, mask);
}

template <class S>
__device__ inline int bytes_of(const TileCall& c, int stage) {
  const int64_t bytes = kStageK * 8, left = c.strip_bytes - stage * bytes;
  return S::value_bytes + S::x_bytes + S::groups * static_cast<int>(min(bytes, left));
}

// The first stages of W are loaded before the previous kernel is done, which may still write x.
template <class S, bool Gated>
__device__ inline void produce(const TileCall& c, const Work<S>& work, const Ring& ring) {
  const int tiles = c.w_tiles * c.x_tiles;
  const int early = min(c.slots, work.last_stage - work.first_stage);
  Slot slot;
  for (int tile = work.tile; tile < tiles; tile += work.step) {
    const Place at = place_of(c, work, tile);
    const bool first = tile == work.tile;
    if (first) {
      for (int s = 0; s < early; ++s) {
        const Shared bar = ring.full + 8 * s;
        skinny::arrive_expecting(bar, bytes_of<S>(c, work.first_stage + s));
        copy_w<S, Gated>(c, work, at, work.first_stage + s, ring.base + s * S::stage_bytes, bar);
      }
      skinny::wait_for_previous();
    }
    for (int stage = work.first_stage; stage < work.last_stage; ++stage) {
      const Shared bar = ring.full + 8 * slot.index, to = ring.base + slot.index * S::stage_bytes;
      if (!first || stage - work.first_stage >= early) {
        wait_for_cluster(ring.empty + 8 * slot.index, slot.parity ^ 1);
        skinny::arrive_expecting(bar, bytes_of<S>(c, stage));
        copy_w<S, Gated>(c, work, at, stage, to, bar);
      }
      copy_x(c, work, at, stage, to, bar);
      slot.advance(c.slots);
    }
  }
}

// Where a lane finds its positions: 16 bytes, in which it takes one of each word (Layout::nibble).
struct Positions {
  int offset;
  uint32_t selector;
};

template <class S, bool Gated>
__device__ inline Positions positions_of(int group) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, low = lane >> 2, half = lane >> 1 & 1, odd = lane & 1;
  constexpr int strip_bytes = kStageK * 8;
  int strip = group, row = warp * 16 + odd * 8;
  if constexpr (Gated) {
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

// Frees a slot for every block that copies to it.
template <class S>
__device__ inline void release(const Work<S>& work, Shared bar) {
  const int lane = threadIdx.x % 32;
  if constexpr (S::along_w * S::along_x == 1) {
    if (lane == 0) skinny::arrive(bar);
  } else {
    // The blocks of its row and of its column.
    const int w = work.along_w(), x = work.along_x();
    if (lane < S::along_w) arrive_at(bar, x * S::along_w + lane);
    else if (lane < S::along_w + S::along_x - 1) {
      const int other = lane - S::along_w;
      arrive_at(bar, (other + (other >= x)) * S::along_w + w);
    }
  }
}

template <class S, bool Gated>
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
    if (before >= 0) release(work, ring.empty + 8 * before);
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
  if (before >= 0) release(work, ring.empty + 8 * before);
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
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(from[s]) : "r"(mine + work.rank * each * threads * 4), "r"(s));
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

template <class T>
__device__ inline float read(const void* from, int at, bool inside) {
  return inside ? skinny::to_float<T>(static_cast<const uint16_t*>(from)[at]) : 0.f;
}

template <class T>
__device__ inline uint32_t pair(float a, float b) {
  return skinny::from_float<T>(a) | uint32_t(skinny::from_float<T>(b)) << 16;
}

__device__ inline Eight activated(const Eight& y, Activation activation) {
  if (activation != Activation::silu) return skinny::activated(y, activation);
  return skinny::each(y, [](float v) { return __fdividef(v, 1 + __expf(-v)); });
}

// Copies the residual of a chunk to where its part of y will lie.
__device__ inline void stage_residual(const TileCall& c, Shared to, int n, int m) {
  const int thread = threadIdx.x % 128;
#pragma unroll
  for (int i = thread; i < kChunk * 8; i += 128) {
    const int row = i / 8, piece = i % 8;
    uint4 v{};
    if (m + row < c.m && n + piece * 8 < c.n)
      v = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(c.residual) + int64_t(m + row) * c.n + n + piece * 8);
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to + row * 128 + ((piece ^ (row & 7)) << 4)), "r"(v.x),
                 "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
  }
}

// Writes the columns of a group's tile, `Columns` of them; n and m are the first column and row of y.
template <class T, class S, bool Gated, int Columns>
__device__ inline void finish(const TileCall& c, const float* d, Shared staging, int n, int m, int group) {
  static_assert(Columns % 16 == 0);
  constexpr int chunk = Columns < kChunk ? Columns : kChunk;
  constexpr int pending = Columns / chunk % 2 ? 0 : 1;  // stores that may still read the other buffer
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int row = n + warp * (Gated ? 8 : 16) + lane / 4, other = Gated ? row : row + 8, shift = Gated ? c.n : 0;
  const float scale0 = row < c.n ? c.w_scale[row] : 0.f, scale1 = other < c.n ? c.w_scale[other + shift] : 0.f;
  const float bias0 = c.bias ? read<T>(c.bias, row, row < c.n) : 0.f;
  const float bias1 = c.bias ? read<T>(c.bias, other + shift, other < c.n) : 0.f;
#pragma unroll
  for (int first = 0; first < Columns; first += chunk) {
    const Shared buffer = staging + (first / chunk % 2) * S::chunk_bytes;
    if (threadIdx.x % 128 == 0) wait_for_reads<pending>();
    sync_group(group);
    if (!Gated && c.residual) {
      stage_residual(c, buffer, n, m + first);
      sync_group(group);
    }
    uint32_t left[2];
#pragma unroll
    for (int j = 0; j < chunk; j += 16) {
      const float* v = d + (first + j) / 2;
      float xs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = m + first + j + i / 2 * 8 + lane % 4 * 2 + i % 2;
        xs[i] = at < c.m ? c.x_scale[at] : 0.f;
      }
      // Of tile i / 4 of 8 columns the element i % 4, as the sums have it.
      Eight y;
#pragma unroll
      for (int i = 0; i < 8; ++i)
        y.v[i] = v[i] * (i % 4 < 2 ? scale0 : scale1) * xs[i / 4 * 2 + i % 2] + (i % 4 < 2 ? bias0 : bias1);
      const int matrix = lane / 8, q = lane % 8;
      if constexpr (Gated) {
        Eight gate;
#pragma unroll
        for (int i = 0; i < 8; ++i) gate.v[i] = y.v[i / 4 * 4 + i % 2];
        gate = activated(gate, c.activation);
        const uint32_t words[2] = {pair<T>(gate.v[0] * y.v[2], gate.v[1] * y.v[3]),
                                   pair<T>(gate.v[4] * y.v[6], gate.v[5] * y.v[7])};
        if (j % 32 == 0 && chunk > 16) {
          left[0] = words[0], left[1] = words[1];
        } else {
          const int first_j = chunk > 16 ? j - 16 : j, line = first_j + matrix * 8 + q;
          const uint32_t four[4] = {chunk > 16 ? left[0] : words[0], chunk > 16 ? left[1] : words[1], words[0], words[1]};
          // With 16 columns the other two matrices fall into rows that aren't stored.
          store_transposed(buffer + line * 64 + ((warp ^ (line >> 1 & 3)) << 4), four);
        }
      } else {
        y = activated(y, c.activation);
        const int line = j + matrix / 2 * 8 + q;
        const Shared at = buffer + line * 128 + (((warp * 2 + matrix % 2) ^ (line & 7)) << 4);
        if (c.residual) {
          uint32_t r[4];
          load_transposed(r, at);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            y.v[2 * i] += skinny::to_float<T>(r[i] & 0xffff);
            y.v[2 * i + 1] += skinny::to_float<T>(r[i] >> 16);
          }
        }
        const uint32_t words[4] = {pair<T>(y.v[0], y.v[1]), pair<T>(y.v[2], y.v[3]), pair<T>(y.v[4], y.v[5]),
                                   pair<T>(y.v[6], y.v[7])};
        store_transposed(at, words);
      }
    }
    skinny::publish();
    sync_group(group);
    if (threadIdx.x % 128 == 0) store_box(c.y, n, m + first, buffer);
  }
}

template <class T, class S, bool Gated>
__device__ inline void multiply(const TileCall& c, const Work<S>& work, const Ring& ring, int group) {
  constexpr int out_rows = Gated ? 32 : 64, each = S::columns / S::shares;
  const Shared staging = ring.staging + group * 2 * S::chunk_bytes;
  const Positions mine = positions_of<S, Gated>(group);
  const int tiles = c.w_tiles * c.x_tiles;
  Slot slot;
  for (int tile = work.tile; tile < tiles; tile += work.step) {
    float d[S::columns / 2];
    const Place at = place_of(c, work, tile);
    consume<S, Gated>(d, c, work, ring, slot, mine, group);
    if constexpr (S::shares > 1) {
      asm volatile("bar.sync 15, %0;" ::"n"(128 * S::groups) : "memory");  // no group reads the ring any more
      meet<S>(d, work, ring.base);
    }
    if (tile == work.tile) skinny::wait_for_previous();
    finish<T, S, Gated, each>(c, d, staging, (at.w * S::groups + group) * out_rows,
                              at.x * S::columns + (S::shares > 1 ? work.rank * each : 0), group);
  }
  if (threadIdx.x % 128 == 0) wait_for_reads<0>();
}

// With shares a cluster multiplies one tile only: its sums lie where the ring was.
template <class T, class S, bool Gated>
__global__ void __launch_bounds__(S::threads, S::per_sm) multiply_tiles(const __grid_constant__ TileCall c) {
  const Ring ring = ring_of<S>(c);
  const Work<S> work(c);
  const int group = threadIdx.x / 128;
  skinny::let_next_start();
  if (threadIdx.x == 0) {
    skinny::prefetch_map(c.values);
    skinny::prefetch_map(c.x);
    skinny::prefetch_map(c.y);
    for (int s = 0; s < c.slots; ++s) {
      skinny::init_barrier(ring.full + 8 * s, 1);
      skinny::init_barrier(ring.empty + 8 * s, 4 * S::groups * (S::along_w + S::along_x - 1));
    }
    skinny::publish_barriers();
  }
  if constexpr (S::cluster > 1) skinny::sync_cluster();
  else __syncthreads();
  // The groups' paths share no code, because they have different numbers of registers.
  if (group == S::groups) {
    give_registers<S::few>();
    if (threadIdx.x % 128 == 0) produce<S, Gated>(c, work, ring);
    __syncwarp();
    if constexpr (S::shares > 1) skinny::sync_cluster();  // of meet
  } else {
    take_registers<S::many>();
    multiply<T, S, Gated>(c, work, ring, group);
  }
  if constexpr (S::cluster > 1) skinny::sync_cluster();  // no block exits while others write or read its memory
}

}  // namespace sparseflow::cuda::fp8_tiles
