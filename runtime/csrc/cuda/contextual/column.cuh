// The kernel of linear layers that leave out inputs near zero. The grid is shares of the kept inputs × slabs of columns. A
// block lists its kept inputs (column_list.cuh). Its warps then stream their row pieces of one tile of the slab after the
// other, each a ring's length ahead of what it multiplies. The sums of the shares meet in the shared memory of a cluster, or
// in memory that stays in the L2.
#pragma once

#include "column_list.cuh"

namespace sparseflow::cuda::contextual {

using skinny::Shared;

// A warp takes row pieces of Pieces × 512 bytes in turns with the others, and has `Depth` of them under way.
template <int Threads, int Pieces, int Depth, int Rows>
struct ColumnShape {
  static constexpr int threads = Threads, pieces = Pieces, depth = Depth, rows = Rows, warps = Threads / 32;
  static constexpr int tile = 256 * Pieces;  // columns, at most
  static constexpr int ring_bytes = Threads * Depth * Pieces * 16, barrier_bytes = warps * Depth * 8;
  static constexpr int sum_bytes = warps * tile * 4, box_bytes = 2 * Rows * tile * 4;
};

template <class S>
struct Sums {
  float v[S::rows][S::pieces * 8];
};

template <class T, class S>
__device__ inline void multiply(Sums<S>& sums, const uint4 (&w)[S::pieces], const uint16_t* values) {
  float x[S::rows];
#pragma unroll
  for (int r = 0; r < S::rows; ++r) x[r] = skinny::to_float<T>(values[r]);
#pragma unroll
  for (int i = 0; i < S::pieces; ++i) {
    const uint32_t words[4] = {w[i].x, w[i].y, w[i].z, w[i].w};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float v = skinny::to_float<T>(static_cast<uint16_t>(words[j / 2] >> j % 2 * 16));
#pragma unroll
      for (int r = 0; r < S::rows; ++r) sums.v[r][i * 8 + j] += x[r] * v;
    }
  }
}

// The slab of a block.
struct Slab {
  int column, tiles;

  __device__ explicit Slab(const Columns& p) {
    column = static_cast<int>(blockIdx.y) * p.tiles * p.width;
    tiles = min(p.tiles, (p.n - column + p.width - 1) / p.width);
  }
};

// The row pieces of a warp: of every tile the inputs `warp`, `warp` + warps, … of the list.
template <class S>
struct Cursor {
  int slot, column, tiles;  // tiles that are left

  __device__ Cursor(const Slab& slab, int listed) : slot(threadIdx.x / 32), column(slab.column), tiles(slot < listed ? slab.tiles : 0) {}

  __device__ bool more() const { return tiles > 0; }

  __device__ void advance(const Columns& p, int listed) {
    slot += S::warps;
    if (slot >= listed) slot = threadIdx.x / 32, column += p.width, --tiles;
  }
};

// Streams by asynchronous copies of each thread for itself.
template <class T, class S>
struct CopyStream {
  const Columns& p;
  const KeptList<S::rows>& list;
  int listed;
  Cursor<S> ahead;
  uint8_t* memory;
  int place = 0;

  static constexpr int kStep = S::threads * 16;

  __device__ static void prepare(uint8_t*) {}

  __device__ CopyStream(const Columns& p, const KeptList<S::rows>& list, int listed, const Slab& slab, uint8_t* ring)
      : p(p), list(list), listed(listed), ahead(slab, listed), memory(ring + threadIdx.x * 16) {
#pragma unroll 1
    for (int d = 0; d < S::depth; ++d) issue(d);
  }

  __device__ void issue(int to) {
    if (ahead.more()) {
      const int lane = static_cast<int>(threadIdx.x) % 32 * 8, there = min(p.width, p.n - ahead.column);
      const uint16_t* from = static_cast<const uint16_t*>(p.weight) + int64_t(list.inputs[ahead.slot]) * p.n + ahead.column + lane;
#pragma unroll
      for (int i = 0; i < S::pieces; ++i)
        if (lane + i * 256 < there)
          skinny::copy_or_zero(skinny::shared_address(memory + (to * S::pieces + i) * kStep), from + i * 256, true);
      ahead.advance(p, listed);
    }
    skinny::commit();
  }

  __device__ void run(Sums<S>& sums) {
#pragma unroll 1
    for (int slot = threadIdx.x / 32; slot < listed; slot += S::warps) {
      skinny::wait_for_all_but<S::depth - 1>();
      uint4 piece[S::pieces];
#pragma unroll
      for (int i = 0; i < S::pieces; ++i)
        piece[i] = *reinterpret_cast<const uint4*>(memory + (place * S::pieces + i) * kStep);
      multiply<T, S>(sums, piece, list.values + slot * S::rows);
      issue(place);
      if (++place == S::depth) place = 0;
    }
  }
};

// Streams by the copy engine, a ring and its barriers for each warp.
template <class T, class S>
struct BulkStream {
  const Columns& p;
  const KeptList<S::rows>& list;
  int listed;
  Cursor<S> ahead;
  uint8_t* memory;
  Shared bars;
  uint64_t policy;
  int place = 0;
  uint32_t parity = 0;

  static constexpr int kStep = S::pieces * 512;

  __device__ static Shared bars_of(uint8_t* ring) {
    return skinny::shared_address(ring + S::ring_bytes) + threadIdx.x / 32 * S::depth * 8;
  }

  // Before anything is copied.
  __device__ static void prepare(uint8_t* ring) {
    if (threadIdx.x % 32 < S::depth) skinny::init_barrier(bars_of(ring) + threadIdx.x % 32 * 8, 1);
    skinny::publish_barriers();
  }

  __device__ BulkStream(const Columns& p, const KeptList<S::rows>& list, int listed, const Slab& slab, uint8_t* ring)
      : p(p), list(list), listed(listed), ahead(slab, listed), memory(ring + threadIdx.x / 32 * S::depth * kStep), bars(bars_of(ring)), policy(skinny::read_once()) {
    skinny::publish();  // the ring held x
    if (threadIdx.x % 32 == 0)
#pragma unroll 1
      for (int d = 0; d < S::depth && ahead.more(); ++d) issue(d);
    __syncwarp();
  }

  // By one lane.
  __device__ void issue(int to) {
    const int bytes = min(p.width, p.n - ahead.column) * 2;
    skinny::arrive_expecting(bars + to * 8, bytes);
    skinny::copy_bytes(skinny::shared_address(memory + to * kStep),
                       static_cast<const uint16_t*>(p.weight) + int64_t(list.inputs[ahead.slot]) * p.n + ahead.column, bytes,
                       bars + to * 8, policy);
    ahead.advance(p, listed);
  }

  __device__ void run(Sums<S>& sums) {
#pragma unroll 1
    for (int slot = threadIdx.x / 32; slot < listed; slot += S::warps) {
      skinny::wait_for(bars + place * 8, parity);
      uint4 piece[S::pieces];
#pragma unroll
      for (int i = 0; i < S::pieces; ++i)
        piece[i] = *reinterpret_cast<const uint4*>(memory + place * kStep + (i * 32 + threadIdx.x % 32) * 16);
      multiply<T, S>(sums, piece, list.values + slot * S::rows);
      __syncwarp();
      if (threadIdx.x % 32 == 0 && ahead.more()) issue(place);
      if (++place == S::depth) place = 0, parity ^= 1;
    }
  }
};

// Writes the sums of a row of x to shared memory, [warps][tile].
template <class S>
__device__ inline void lay_out(const Sums<S>& sums, int r, float* memory) {
  float* to = memory + threadIdx.x / 32 * S::tile + threadIdx.x % 32 * 8;
#pragma unroll
  for (int i = 0; i < S::pieces * 2; ++i)
    *reinterpret_cast<float4*>(to + i / 2 * 256 + i % 2 * 4) = {sums.v[r][4 * i], sums.v[r][4 * i + 1], sums.v[r][4 * i + 2], sums.v[r][4 * i + 3]};
}

// Calls what(r, c, sum) for each row of x and column of a tile, with the block's sum.
template <class S, class F>
__device__ inline void add_up_warps(const Columns& p, const Sums<S>& sums, float* memory, F what) {
#pragma unroll
  for (int r = 0; r < S::rows; ++r) {
    if (r >= p.m) break;
    __syncthreads();  // the previous sums were read
    lay_out<S>(sums, r, memory);
    __syncthreads();
#pragma unroll 1
    for (int c = threadIdx.x; c < p.width; c += S::threads) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < S::warps; ++w) sum += memory[w * S::tile + c];
      what(r, c, sum);
    }
  }
}

template <class T>
__device__ inline void finish_column(const Columns& p, int row, int column, float sum) {
  if (column >= p.n) return;
  if (p.bias) sum += element<T>(p.bias, column);
  if (p.residual) sum += element<T>(p.residual, int64_t(row) * p.n + column);
  store<T>(p.y, int64_t(row) * p.n + column, sum);
}

// The shares' sums of a tile meet in the shared memory of their cluster, where every block finishes some of the columns.
// `boxes`: [2][shares][rows][columns of a block]. All blocks must have started before it is called.
template <class T, class S>
__device__ inline void meet_in_cluster(const Columns& p, const Sums<S>& sums, int tile, int column, float* memory, float* boxes) {
  const int shares = gridDim.x, rank = blockIdx.x, part = p.width / shares;
  float* box = boxes + tile % 2 * S::rows * S::tile;
  add_up_warps<S>(p, sums, memory, [&](int r, int c, float sum) {
    *peer_of(box + (rank * S::rows + r) * part + c % part, c / part) = sum;
  });
  arrive_at_cluster();
  wait_for_cluster();
#pragma unroll 1
  for (int i = threadIdx.x; i < p.m * part; i += S::threads) {
    const int r = i / part, c = i % part;
    float sum = 0;
#pragma unroll 1
    for (int b = 0; b < shares; ++b) sum += box[(b * S::rows + r) * part + c];
    finish_column<T>(p, r, column + rank * part + c, sum);
  }
}

// They meet in memory, where the last block to come finishes the tile (see skinny/hopper_shares.cuh).
template <class T, class S>
__device__ inline void meet_in_memory(const Columns& p, const Sums<S>& sums, int tile, int column, float* memory) {
  __shared__ bool last;
  const int shares = gridDim.x, rank = blockIdx.x, number = static_cast<int>(blockIdx.y) * p.tiles + tile;
  float* partials = p.partials + int64_t(number) * shares * S::rows * S::tile;
  add_up_warps<S>(p, sums, memory, [&](int r, int c, float sum) { partials[(rank * S::rows + r) * S::tile + c] = sum; });
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = skinny::count(p.counters + number) == p.tag + shares - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
#pragma unroll 1
  for (int i = threadIdx.x; i < p.m * p.width; i += S::threads) {
    const int r = i / p.width, c = i % p.width;
    float sum = 0;
#pragma unroll 4
    for (int b = 0; b < shares; ++b) sum += written_by_others(partials + (b * S::rows + r) * S::tile + c);
    finish_column<T>(p, r, column + c, sum);
  }
  if (threadIdx.x == 0) p.counters[number] = p.tag;
}

// Makes counters of words that aren't any yet.
__device__ inline void claim_counters(const Columns& p) {
  const int t = threadIdx.x;
  if (t >= p.tiles) return;
  uint64_t* counter = p.counters + blockIdx.y * p.tiles + t;
  const uint64_t seen = *static_cast<volatile uint64_t*>(counter);
  if ((seen ^ p.tag) >> 8) skinny::replace(counter, seen, p.tag);
}

template <class T, class S, template <class, class> class Stream, bool Cluster>
__global__ void __launch_bounds__(S::threads) multiply_columns(const __grid_constant__ Columns p) {
  // Shared memory: ring (at first x), barriers, sums of the warps, boxes, list.
  uint8_t* ring = skinny::shared_memory();
  uint8_t* sums_at = ring + S::ring_bytes + S::barrier_bytes;
  auto *memory = reinterpret_cast<float*>(sums_at), *boxes = reinterpret_cast<float*>(sums_at + S::sum_bytes);
  const KeptList<S::rows> list(sums_at + S::sum_bytes + S::box_bytes, p.room);
  Stream<T, S>::prepare(ring);
  let_next_start();
  if constexpr (Cluster) arrive_at_cluster();
  wait_for_previous();
#ifdef PROBE
  if (p.stop == 1) { if constexpr (Cluster) wait_for_cluster(); return; }
#endif
  if constexpr (!Cluster) claim_counters(p);
  const int listed = list_kept<S::threads, S::rows>(p, list, ring);
#ifdef PROBE
  if (p.stop == 2) { if constexpr (Cluster) wait_for_cluster(); return; }
#endif
  const Slab slab(p);
  Stream<T, S> stream(p, list, listed, slab, ring);
  if constexpr (Cluster) wait_for_cluster();
#pragma unroll 1
  for (int tile = 0; tile < slab.tiles; ++tile) {
    Sums<S> sums{};
    stream.run(sums);
#ifdef PROBE
    if (p.stop == 3) { if (sums.v[0][0] == 12345.f) memory[threadIdx.x] = sums.v[0][0]+sums.v[0][1]+sums.v[0][2]+sums.v[0][3]+sums.v[0][4]+sums.v[0][5]+sums.v[0][6]+sums.v[0][7]; continue; }
#endif
    const int column = slab.column + tile * p.width;
    if constexpr (Cluster) meet_in_cluster<T, S>(p, sums, tile, column, memory, boxes);
    else meet_in_memory<T, S>(p, sums, tile, column, memory);
  }
}

}  // namespace sparseflow::cuda::contextual
