// The kernel for sm_90: the copy engine brings W, its positions and x into a ring in shared memory, wgmma multiplies from
// there, W in e4m3 from registers, where it becomes x's type. Rows of W are wgmma's M, rows of x its N.
//
// A block multiplies a strip of S::rows rows of W with S::m_rows rows of x over its share of K. Its last warp only
// issues the copies of stages of S::units × 64 in K; each group of four warps multiplies S::tiles × 64 rows. The shares
// of K are added within a cluster, or through memory (hopper_shares.cuh).
#pragma once

#include "hopper_finish.cuh"

namespace sparseflow::cuda::skinny {

template <int Tiles, int Groups, int PerSm, int MTiles, bool E4m3>
struct HopperShape {
  static constexpr int tiles = Tiles, groups = Groups, per_sm = PerSm, m_tiles = MTiles;
  static constexpr bool e4m3 = E4m3;
  // Rows of 128 bytes of values; but with so many rows of x, such stages would be too few.
  static constexpr int units = e4m3 ? MTiles > 2 ? 2 : 4 : MTiles > 16 ? 1 : 2;
  static constexpr int rows = 64 * Tiles * Groups, m_rows = 8 * MTiles;
  static constexpr int threads = 128 * Groups + 32;

  static constexpr int row_bytes = (e4m3 ? 32 : 64) * units;  // of values
  static constexpr int value_pitch = row_bytes;
  static constexpr int x_unit_bytes = m_rows * 128;
  static constexpr int value_bytes = rows * row_bytes, position_bytes = rows * 8 * units, x_bytes = x_unit_bytes * units;
  static constexpr int stage_bytes = value_bytes + position_bytes + x_bytes;
  // The sums at the end, as in shape.h. A row has 1 << across_shift groups of eight. After the sums there is a word by
  // which one warp passes its result to the others.
  static constexpr int across_shift = rows == 64 ? 3 : rows == 128 ? 4 : 5;
  static_assert(8 << across_shift == rows);
  static constexpr int sum_pitch = rows + 4;
  static constexpr int sum_bytes = m_rows * sum_pitch * 4;
  static_assert(stage_bytes % 1024 == 0 && value_bytes % 1024 == 0 && (value_bytes + position_bytes) % 1024 == 0);
};

template <class S>
__device__ inline Strip strip_of(const HopperCall& c) {
  const int stages = (c.p.k + 64 * S::units - 1) / (64 * S::units), split = blockIdx.x, strip = blockIdx.y / c.m_groups;
  const int half = S::rows / 2, row = strip * (c.p.gated ? half : S::rows);
  return {row, c.p.gated ? c.p.n / 2 + row : row + half, static_cast<int>(blockIdx.y % c.m_groups) * S::m_rows,
          static_cast<int>(int64_t(stages) * split / c.splits), static_cast<int>(int64_t(stages) * (split + 1) / c.splits)};
}

// The ring of stages, followed by two barriers for each stage: one for full, one for empty.
struct Ring {
  Shared base, full, empty;
};

template <class S>
__device__ inline Ring ring_of(const HopperCall& c) {
  const Shared base = shared_address(shared_memory());
  return {base, base + c.slots * S::stage_bytes, base + c.slots * (S::stage_bytes + 8)};
}

struct Slot {
  int index = 0;
  uint32_t parity = 0;

  __device__ void advance(int slots) {
    if (++index == slots) index = 0, parity ^= 1;
  }
};

// The positions of a stage are contiguous for each 64 rows of the strip.
template <class S, class F>
__device__ inline void for_each_piece(const Product& p, const Strip& strip, int stage, F what) {
  const int bytes = min(p.k / 64 - stage * S::units, S::units) * 512;
#pragma unroll
  for (int i = 0; i < S::rows / 64; ++i) {
    // In a strip of 64 rows, one piece holds both halves.
    const int row = S::rows > 64 && 2 * i >= S::rows / 64 ? strip.other + 64 * i - S::rows / 2 : strip.row + 64 * i;
    if (row < p.n) what(i, row, bytes);
  }
}

// Loads W and its positions; the barrier also expects the bytes of x.
template <class S>
__device__ inline void load_weight(const HopperCall& c, const Strip& strip, int stage, const Ring& ring, int slot,
                                   uint64_t policy) {
  const Product& p = c.p;
  const Shared to = ring.base + slot * S::stage_bytes, full = ring.full + 8 * slot;
  int bytes = S::value_bytes + S::x_bytes;
  for_each_piece<S>(p, strip, stage, [&](int, int, int piece) { bytes += piece; });
  arrive_expecting(full, bytes);
  copy_box(to, c.values, stage * 32 * S::units, strip.row, full, policy);
  copy_box(to + S::value_bytes / 2, c.values, stage * 32 * S::units, strip.other, full, policy);
  for_each_piece<S>(p, strip, stage, [&](int i, int row, int piece) {
    const int64_t tile = int64_t(row / 64) * (p.k / 32) + 2 * S::units * stage;
    copy_bytes(to + S::value_bytes + i * 512 * S::units, static_cast<const uint8_t*>(p.positions) + tile * 256, piece, full, policy);
  });
}

template <class S>
__device__ inline void load_rows(const HopperCall& c, const Strip& strip, int stage, const Ring& ring, int slot,
                                 uint64_t policy) {
  const Shared to = ring.base + slot * S::stage_bytes + S::value_bytes + S::position_bytes, full = ring.full + 8 * slot;
#pragma unroll
  for (int u = 0; u < S::units; ++u)
    copy_box(to + u * S::x_unit_bytes, c.x, (stage * S::units + u) * 64, strip.m, full, policy);
}

// W is constant, so its first stages are loaded while the previous kernel still runs.
template <class S>
__device__ inline void produce(const HopperCall& c, const Strip& strip, const Ring& ring) {
  const uint64_t once = read_once(), often = read_often();
  const int early = min(strip.last, strip.first + c.early);
  for (int stage = strip.first; stage < early; ++stage) load_weight<S>(c, strip, stage, ring, stage - strip.first, once);
  wait_for_previous();
  for (int stage = strip.first; stage < early; ++stage) load_rows<S>(c, strip, stage, ring, stage - strip.first, often);
  Slot slot{.index = c.early == c.slots ? 0 : c.early, .parity = c.early == c.slots ? 0u : 1u};
  for (int stage = early; stage < strip.last; ++stage) {
    wait_for(ring.empty + 8 * slot.index, slot.parity);
    load_weight<S>(c, strip, stage, ring, slot.index, once);
    load_rows<S>(c, strip, stage, ring, slot.index, often);
    slot.advance(c.slots);
  }
}

template <class S>
struct Positions {
  uint32_t of[S::tiles][S::units];
};

template <class S>
__device__ inline void load_positions(Positions<S>& positions, Shared slot) {
  const int warp = threadIdx.x / 32 % 4, group = threadIdx.x / 128;
  const Shared from = slot + S::value_bytes + group * S::tiles * S::units * 512;
#pragma unroll
  for (int t = 0; t < S::tiles; ++t)
#pragma unroll
    for (int u = 0; u < S::units; ++u) positions.of[t][u] = load_metadata<S>(from + (t * S::units + u) * 512, warp);
}

template <class S>
__device__ inline void keep(const Positions<S>& positions) {
#pragma unroll
  for (int t = 0; t < S::tiles; ++t)
#pragma unroll
    for (int u = 0; u < S::units; ++u) keep(positions.of[t][u]);
}

template <class T, class S>
__device__ inline void begin_stage(float (&sums)[S::tiles][S::m_tiles][4], const Positions<S>& positions, Shared slot) {
  const Shared x = slot + S::value_bytes + S::position_bytes;
  begin_wgmma();
#pragma unroll
  for (int t = 0; t < S::tiles; ++t) {
    const Shared w = slot + (static_cast<int>(threadIdx.x / 128) * S::tiles + t) * 64 * S::row_bytes;
#pragma unroll
    for (int u = 0; u < S::units; ++u) {
      const Shared a = w + u * 64, b = x + u * S::x_unit_bytes;
      float* d = &sums[t][0][0];
      multiply_add_group<T, S::m_rows, 0>(d, matrix_at<S::row_bytes>(a), matrix_at<128>(b), positions.of[t][u]);
      multiply_add_group<T, S::m_rows, 1>(d, matrix_at<S::row_bytes>(a + 32), matrix_at<128>(b + 64), positions.of[t][u]);
    }
  }
  end_wgmma();
}

// The next stage is started while one is being multiplied.
template <class T, class S>
__device__ inline void consume_from_memory(float (&sums)[S::tiles][S::m_tiles][4], const HopperCall& c, const Strip& strip,
                               const Ring& ring) {
  Slot slot;
  int before = -1;
  const auto step = [&](Positions<S>& mine, const Positions<S>& running) {
    wait_for(ring.full + 8 * slot.index, slot.parity);
    const Shared at = ring.base + slot.index * S::stage_bytes;
    load_positions<S>(mine, at);
    begin_stage<T, S>(sums, mine, at);
    wait_for_wgmma<1>();
    keep(running);
    if (before >= 0) arrive(ring.empty + 8 * before);
    before = slot.index;
    slot.advance(c.slots);
  };
  Positions<S> even{}, odd{};
  int stage = strip.first;
  for (; stage + 1 < strip.last; stage += 2) {
    step(even, odd);
    step(odd, even);
  }
  if (stage < strip.last) step(even, odd);
  wait_for_wgmma<0>();
  keep(even);
  keep(odd);
}

// A unit of a group's W in registers.
template <class S>
struct Fragments {
  uint32_t positions[S::tiles], of[S::tiles][2][4];
};

template <class T, class S>
__device__ inline void load_fragments(Fragments<S>& fragments, Shared slot, int unit) {
  const int warp = threadIdx.x / 32 % 4, group = threadIdx.x / 128;
  const Shared positions = slot + S::value_bytes + (group * S::tiles * S::units + unit) * 512;
  const Shared rows = slot + (group * S::tiles * 64 + warp * 16) * S::row_bytes;
#pragma unroll
  for (int t = 0; t < S::tiles; ++t) {
    fragments.positions[t] = load_metadata<S>(positions + t * S::units * 512, warp);
#pragma unroll
    for (int s = 0; s < 2; ++s)
      load_fragment<T, S>(fragments.of[t][s], rows + t * 64 * S::row_bytes, unit * 2 + s);
  }
}

template <class S>
__device__ inline void keep(const Fragments<S>& fragments) {
#pragma unroll
  for (int t = 0; t < S::tiles; ++t) {
    keep(fragments.positions[t]);
#pragma unroll
    for (int i = 0; i < 8; ++i) keep(fragments.of[t][i / 4][i % 4]);
  }
}

template <class T, class S>
__device__ inline void begin_unit(float (&sums)[S::tiles][S::m_tiles][4], const Fragments<S>& fragments, Shared slot,
                                  int unit) {
  const uint64_t x = matrix_at<128>(slot + S::value_bytes + S::position_bytes);
  const int at = unit * S::x_unit_bytes;
  begin_wgmma();
#pragma unroll
  for (int t = 0; t < S::tiles; ++t) {
    float* d = &sums[t][0][0];
    const auto& w = fragments.of[t];
    multiply_add_group<T, S::m_rows, 0>(d, w[0], matrix_behind(x, at), fragments.positions[t]);
    multiply_add_group<T, S::m_rows, 1>(d, w[1], matrix_behind(x, at + 64), fragments.positions[t]);
  }
  end_wgmma();
}

// While a unit is multiplied, the next one is brought to registers.
template <class T, class S>
__device__ inline void consume_from_registers(float (&sums)[S::tiles][S::m_tiles][4], const HopperCall& c,
                                              const Strip& strip, const Ring& ring) {
  static_assert(S::units % 2 == 0);
  Slot slot;
  int before = -1;
  Fragments<S> even{}, odd{};
  const auto step = [&](Fragments<S>& mine, const Fragments<S>& running, Shared at, int unit) {
    load_fragments<T, S>(mine, at, unit);
    begin_unit<T, S>(sums, mine, at, unit);
    wait_for_wgmma<1>();
    keep(running);
  };
  for (int stage = strip.first; stage < strip.last; ++stage) {
    wait_for(ring.full + 8 * slot.index, slot.parity);
    const Shared at = ring.base + slot.index * S::stage_bytes;
#pragma unroll
    for (int unit = 0; unit < S::units; unit += 2) {
      step(even, odd, at, unit);
      if (unit == 0 && before >= 0) arrive(ring.empty + 8 * before);
      step(odd, even, at, unit + 1);
    }
    before = slot.index;
    slot.advance(c.slots);
  }
  wait_for_wgmma<0>();
  keep(even);
  keep(odd);
}

template <class T, class S>
__device__ inline void consume(float (&sums)[S::tiles][S::m_tiles][4], const HopperCall& c, const Strip& strip,
                               const Ring& ring) {
  if constexpr (S::e4m3) consume_from_registers<T, S>(sums, c, strip, ring);
  else consume_from_memory<T, S>(sums, c, strip, ring);
}

// Grid: shares of K (a cluster, unless they meet in memory) × strips of W, each for every group of rows of x, side by side
// so that W is read once.
template <class T, class S>
__global__ void __launch_bounds__(S::threads, S::per_sm) multiply_hopper(const __grid_constant__ HopperCall c) {
  const Ring ring = ring_of<S>(c);
  const Strip strip = strip_of<S>(c);
  const bool producer = threadIdx.x >= 128 * S::groups;
  let_next_start();
  if (threadIdx.x == 0) {
    prefetch_map(c.values);
    prefetch_map(c.x);
    for (int s = 0; s < c.slots; ++s) {
      init_barrier(ring.full + 8 * s, 1);
      init_barrier(ring.empty + 8 * s, 128 * S::groups);  // every thread arrives, because racecheck doesn't track warps
    }
    publish_barriers();
  }
  __syncthreads();
  float sums[S::tiles][S::m_tiles][4] = {};
  if (!producer) consume<T, S>(sums, c, strip, ring);
  else if (threadIdx.x == 128 * S::groups) produce<S>(c, strip, ring);
  __syncwarp();
  wait_for_previous();
  const int rows = min(c.p.m - strip.m, S::m_rows);
  if (producer && c.p.partials) claim_counters<S>(c, pieces_of<S>(c, rows));
  if (producer && c.p.before.squares) find_factors(c, strip.m, rows);
  __syncthreads();  // no thread reads the ring any more
  auto* laid_out = reinterpret_cast<float*>(shared_memory());
  if (!producer) lay_out_group<S>(sums, laid_out);
  const Part part = meet_shares<S>(c, rows, laid_out);
  if (c.splits > 1) finish_part<T, S, true>(c, strip, part, laid_out);
  else finish_part<T, S, false>(c, strip, part, laid_out);
  if (c.splits > 1 && !c.p.partials) sync_cluster();  // no block exits while others read its memory
}

}  // namespace sparseflow::cuda::skinny
