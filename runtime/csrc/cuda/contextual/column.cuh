// The kernel of linear layers that leave out inputs near zero. The grid is shares of the inputs × tiles of columns. A block
// lists what is kept of its share (column_list.cuh); its warps take the listed rows of the weight in turns, pieces of 256
// columns, many at once. The sums of the shares meet in the shared memory of a cluster, or in memory that stays in the L2.
#pragma once

#include <type_traits>

#include "column_list.cuh"

namespace sparseflow::cuda::contextual {

constexpr int kColumnThreads = 512, kColumnWarps = kColumnThreads / 32;
constexpr int kTile = 256;  // columns: eight of a lane

// A weight in e4m3, beside Bf16, Fp16 and int8_t.
struct E4m3 {};

template <class W>
constexpr bool kInBytes = std::is_same_v<W, int8_t> || std::is_same_v<W, E4m3>;

// Eight adjacent values of a row of the weight.
template <class W>
using RowPiece = std::conditional_t<kInBytes<W>, uint2, uint4>;

// The row pieces that a warp has under way, for so many rows of x: as many as registers allow for two blocks, of 8 bits
// fewer, which was measured to be faster.
template <class W>
SPARSEFLOW_BOTH constexpr int pieces_ahead(int rows) {
  if (kInBytes<W>) return rows == 1 ? 6 : rows == 2 ? 8 : 5;
  return rows == 1 ? 7 : rows == 2 ? 6 : 4;
}

// Shared memory: sums of the warps, boxes for those of the cluster's blocks, and the list.
constexpr int kSumBytes = kColumnWarps * kTile * 4;
SPARSEFLOW_BOTH constexpr int box_bytes(int rows) { return rows * kTile * 4; }

template <int Rows>
constexpr int kColumnBytes = kSumBytes + box_bytes(Rows) + kListBytes<kColumnThreads, Rows>;

template <int Rows>
struct Sums {
  float v[Rows][8];
};

template <class W>
__device__ inline RowPiece<W> load_piece(const void* weight, int64_t at) {
  if constexpr (kInBytes<W>) return stream8(static_cast<const uint8_t*>(weight) + at);
  else return stream16(static_cast<const uint16_t*>(weight) + at);
}

template <class W>
__device__ inline Eight widened_piece(const RowPiece<W>& w) {
  if constexpr (std::is_same_v<W, E4m3>) {
    Eight out;
    const uint32_t words[2] = {w.x, w.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = widen_e4m3(static_cast<uint16_t>(words[i / 2] >> i % 2 * 16));
      out.v[2 * i] = two.x, out.v[2 * i + 1] = two.y;
    }
    return out;
  } else if constexpr (kInBytes<W>) {
    return widened<W>(Piece<W>{w.x, w.y});
  } else {
    return widened<W>(Piece<W>{w.x, w.y, w.z, w.w});
  }
}

template <class T, class W, int Rows>
__device__ inline void multiply(Sums<Rows>& sums, const RowPiece<W>& w, const Kept<Rows>& kept) {
  const Eight v = widened_piece<W>(w);
  float x[Rows];
#pragma unroll
  for (int r = 0; r < Rows; ++r) x[r] = skinny::to_float<T>(kept.values[r]);
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int r = 0; r < Rows; ++r) sums.v[r][j] += x[r] * v.v[j];
}

// Returns the column of the weight, or of y, that is the one at place c of a block's tile, or n or more if there is none.
// With a gate, the first half of a tile are columns of the gate, the second those of up that they gate.
SPARSEFLOW_BOTH inline int column_at(const Columns& p, unsigned tile, int c) {
  if (!p.gated) return static_cast<int>(tile) * kTile + c;
  const int half = p.n / 2, column = static_cast<int>(tile) * (kTile / 2) + c % (kTile / 2);
  return column < half ? c / (kTile / 2) * half + column : p.n;
}

// What a warp's turn through the list loads and multiplies.
template <class T, class W, int Rows>
struct Turn {
  const Columns& p;
  const Kept<Rows>* list;
  int column, end;  // of the weight, and of the list; 0 for lanes behind the last column

  __device__ void load(RowPiece<W>& piece, int slot) const {
    if (slot < end) piece = load_piece<W>(p.weight, int64_t(list[slot].input) * p.n + column);
  }

  __device__ void add(Sums<Rows>& sums, const RowPiece<W>& piece, int slot) const {
    if (slot < end) multiply<T, W, Rows>(sums, piece, list[slot]);
  }
};

// Adds the products of a warp's share of the listed inputs, for eight columns of each lane. One row in 16 bits keeps as many
// loads under way all the time; where more is computed, loading in batches was measured to be faster by far.
template <class T, class W, int Rows>
__device__ inline void multiply_listed(const Columns& p, const Kept<Rows>* list, int listed, Sums<Rows>& sums) {
  constexpr int ahead = pieces_ahead<W>(Rows), round = ahead * kColumnWarps;
  constexpr bool rolling = Rows == 1 && !kInBytes<W>;
  const int column = column_at(p, blockIdx.y, static_cast<int>(threadIdx.x) % 32 * 8), first = threadIdx.x / 32;
  const Turn<T, W, Rows> turn{p, list, column, column < p.n ? listed : 0};
  RowPiece<W> piece[ahead];
#pragma unroll
  for (int i = 0; i < ahead; ++i) turn.load(piece[i], first + i * kColumnWarps);
#pragma unroll 1
  for (int slot = first; slot < turn.end; slot += round) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      turn.add(sums, piece[i], slot + i * kColumnWarps);
      if (rolling) turn.load(piece[i], slot + i * kColumnWarps + round);
    }
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (!rolling) turn.load(piece[i], slot + i * kColumnWarps + round);
  }
}

// Writes the sums of a row of x to shared memory, [warps][tile].
template <int Rows>
__device__ inline void lay_out(const Sums<Rows>& sums, int r, float* memory) {
  auto* to = reinterpret_cast<float4*>(memory + threadIdx.x / 32 * kTile + threadIdx.x % 32 * 8);
#pragma unroll
  for (int i = 0; i < 2; ++i)
    to[i] = {sums.v[r][4 * i], sums.v[r][4 * i + 1], sums.v[r][4 * i + 2], sums.v[r][4 * i + 3]};
}

// Calls what(r, c, sum) for each row of x and column of the tile, with the block's sum.
template <int Rows, class F>
__device__ inline void add_up_warps(const Columns& p, const Sums<Rows>& sums, float* memory, F what) {
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    if (r >= p.m) break;
    if (r) __syncthreads();  // the previous sums were read
    lay_out<Rows>(sums, r, memory);
    __syncthreads();
    const int c = threadIdx.x;
    if (c >= kTile) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kColumnWarps; ++w) sum += memory[w * kTile + c];
    what(r, c, sum);
  }
}

template <class T>
__device__ inline float scaled_and_biased(const Columns& p, int column, float sum) {
  if (p.scale) sum *= p.scale[column];
  return p.bias ? sum + element<T>(p.bias, column) : sum;
}

// Finishes the column at place c of the tile, or what it gates; sum_at(c) is the sum of a place.
template <class T, class F>
__device__ inline void finish_column(const Columns& p, int r, int c, F sum_at) {
  const int column = column_at(p, blockIdx.y, c);
  if (column >= p.n) return;
  float y = skinny::activated(scaled_and_biased<T>(p, column, sum_at(c)), p.activation);
  if (p.gated) y *= scaled_and_biased<T>(p, p.n / 2 + column, sum_at(c + kTile / 2));
  const int64_t at = int64_t(r) * (p.gated ? p.n / 2 : p.n) + column;
  if (p.residual) y += element<T>(p.residual, at);
  store<T>(p.y, at, y);
}

// The places of a tile that are finished by themselves.
__device__ inline int finished_places(const Columns& p) { return p.gated ? kTile / 2 : kTile; }

// The shares' sums meet in the shared memory of their cluster, where every block finishes some of the columns. `box`:
// [shares][rows][columns of a block, then what they gate]. All blocks must have started before it is called.
template <class T, int Rows>
__device__ inline void meet_in_cluster(const Columns& p, const Sums<Rows>& sums, float* memory, float* box) {
  const int shares = gridDim.x, rank = blockIdx.x, part = kTile / shares;
  const int places = finished_places(p), own = places / shares;  // a block's, of those
  add_up_warps<Rows>(p, sums, memory, [&](int r, int c, float sum) {
    const int place = c % places;
    *peer_of(box + (rank * Rows + r) * part + c / places * own + place % own, place / own) = sum;
  });
  arrive_at_cluster();
  wait_for_cluster();
#pragma unroll 1
  for (int i = threadIdx.x; i < p.m * own; i += kColumnThreads) {
    const int r = i / own;
    finish_column<T>(p, r, rank * own + i % own, [&](int c) {
      const int at = c / places * own + c % own;
      float sum = 0;
#pragma unroll 1
      for (int b = 0; b < shares; ++b) sum += box[(b * Rows + r) * part + at];
      return sum;
    });
  }
}

// They meet in memory, where the last block to come finishes the tile: no block waits for another, as in
// skinny/hopper_shares.cuh. `partials`: [tiles][shares][rows][tile].
template <class T, int Rows>
__device__ inline void meet_in_memory(const Columns& p, const Sums<Rows>& sums, float* memory) {
  __shared__ bool last;
  const int shares = gridDim.x, rank = blockIdx.x;
  float* partials = p.partials + int64_t(blockIdx.y) * shares * Rows * kTile;
  add_up_warps<Rows>(p, sums, memory, [&](int r, int c, float sum) { partials[(rank * Rows + r) * kTile + c] = sum; });
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = skinny::count(p.counters + blockIdx.y) == p.tag + shares - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  const int places = finished_places(p);
#pragma unroll 1
  for (int i = threadIdx.x; i < p.m * places; i += kColumnThreads) {
    const int r = i / places;
    finish_column<T>(p, r, i % places, [&](int c) {
      float sum = 0;
#pragma unroll 4
      for (int b = 0; b < shares; ++b) sum += written_by_others(partials + (b * Rows + r) * kTile + c);
      return sum;
    });
  }
  if (threadIdx.x == 0) p.counters[blockIdx.y] = p.tag;
}

// Makes a counter of a word that isn't one yet; by one thread.
__device__ inline void claim_counter(const Columns& p) {
  uint64_t* counter = p.counters + blockIdx.y;
  const uint64_t seen = skinny::load_acquiring(counter);
  if ((seen ^ p.tag) >> 8) skinny::replace(counter, seen, p.tag);
}

template <class T, class W, int Rows, bool Cluster>
__global__ void __launch_bounds__(kColumnThreads, 2) multiply_columns(const __grid_constant__ Columns p) {
  auto* memory = reinterpret_cast<float*>(skinny::shared_memory());
  float* box = memory + kSumBytes / 4;
  auto* list = reinterpret_cast<Kept<Rows>*>(skinny::shared_memory() + kSumBytes + box_bytes(Rows));
  const Dealt dealt(p);
  if constexpr (Cluster) arrive_at_cluster();
  wait_for_previous();
  let_next_start();
  if (!Cluster && threadIdx.x == kColumnThreads - 1) claim_counter(p);
  Sums<Rows> sums{};
#pragma unroll 1
  for (int first = 0; first < dealt.own; first += kColumnThreads * kWords<Rows>) {
    const int listed = list_kept<kColumnThreads, Rows>(p, dealt, first, list, reinterpret_cast<int*>(memory));
    multiply_listed<T, W, Rows>(p, list, listed, sums);
  }
  if constexpr (Cluster) {
    wait_for_cluster();
    meet_in_cluster<T, Rows>(p, sums, memory, box);
  } else {
    meet_in_memory<T, Rows>(p, sums, memory);
  }
}

}  // namespace sparseflow::cuda::contextual
