// The product for many rows of x. x becomes tiles: some vectors of m wide, all of k long, a block of k small enough
// for L1. Each row of W meets a block entry by entry: broadcast what was kept, multiply with the row of the tile
// that its position names. That is half the multiplications of the dense product, each fed by one load from L1.
// `Kind` says what an entry is: tile_wide.h, tile_pairs.h.
#pragma once

#include "epilogue.h"
#include "transpose.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int kMaxVectors = W == 16 ? 4 : 8;  // of m in a tile
constexpr int kBlockBytes = 20 * 1024;        // of a k-block of the tile: leaves room in a 32 KB L1
constexpr int kL2Bytes = 384 * 1024;          // of a stretch of k of the tile: stays in L2 over a piece of rows
constexpr int kPiece = 1024;                  // most rows of W in a task
constexpr int kAhead = 8;  // rows of W that are read together; hardware prefetch follows about 16 streams, not 32
constexpr int64_t kStretch = 512;             // k of a prepare task

// Rows of W multiplied together: enough independent sums to hide the latency of the multiply-add.
constexpr int rows_at_once(int vectors) { return vectors <= 2 ? 4 : vectors <= 4 ? 2 : 1; }

template <class Kind>
constexpr int k_block(int vectors) {
  const int fit = kBlockBytes / Kind::tile_bytes(vectors) / Kind::kStep * Kind::kStep;
  return fit < Kind::kStep ? Kind::kStep : fit;
}

// Entries of a block of rows, decoded. Rows are spaced so that they don't compete for the same sets of L1.
template <class Kind, int V>
struct Decoded {
  static constexpr int kBlock = k_block<Kind>(V), kEntries = kBlock / Kind::kPerEntry + 16;
  const char* v[kAhead];  // the entries' values: 4 bytes each
  alignas(64) uint32_t offset[kAhead][kEntries];
  alignas(64) uint32_t converted[kAhead][kEntries];
};

struct Tile {
  int64_t first, count;  // vectors of m
};
inline Tile tile_of(const Plan& p, int64_t t) {
  const int64_t first = t * p.vectors / p.tiles;
  return {first, (t + 1) * p.vectors / p.tiles - first};
}

template <class Kind>
inline char* tile_data(const Plan& p, Tile t) {
  return p.scratch + t.first * Kind::tile_bytes(1) * p.k_padded;
}

template <class Kind>
void prepare_stretch(const Plan& p, Tile tile, int64_t k0, int64_t k1) {
  using T = typename Kind::D::T;
  for (int64_t v = 0; v < tile.count; ++v) {
    const int64_t m0 = (tile.first + v) * W;
    for (int64_t k = k0; k < k1; k += Kind::kPut) {
      T edge[W][Kind::kPut];
      const T* rows[W];
      const int64_t len = most(0, least(Kind::kPut, p.a.k - k));
      for (int i = 0; i < W; ++i) {
        rows[i] = m0 + i < p.a.m ? static_cast<const T*>(p.a.x) + (m0 + i) * p.a.x_stride + k : nullptr;
        if (!rows[i] || len == Kind::kPut) continue;
        std::memset(edge[i], 0, sizeof(edge[i]));
        std::memcpy(edge[i], rows[i], len * sizeof(T));
        rows[i] = edge[i];
      }
      Kind::put(rows, k, tile.count * W, tile_data<Kind>(p, tile) + v * W * 4);
    }
  }
}

template <class Kind>
void prepare_tiles(const Plan& p, int64_t begin, int64_t end) {
  const int64_t stretches = (p.k_padded + kStretch - 1) / kStretch;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t k0 = i % stretches * kStretch;
    prepare_stretch<Kind>(p, tile_of(p, i / stretches), k0, least(k0 + kStretch, p.k_padded));
  }
}

// Row `row` of W, columns [k0, k1), to entry i of `d`.
template <class Kind, int V>
inline void decode(const Plan& p, int64_t row, int64_t k0, int64_t k1, Decoded<Kind, V>& d, int i) {
  using T = typename Kind::D::T;
  constexpr int kStep = Kind::kStep;
  const int64_t groups = (p.a.k + 3) / 4, bytes = (groups + 1) / 2;
  const T* values = static_cast<const T*>(p.a.values) + row * groups * 2;
  const uint8_t* positions = p.a.positions + row * bytes;
  const bool whole = k1 <= groups * 4;
  d.v[i] = reinterpret_cast<const char*>(Kind::kDirect && whole ? static_cast<const void*>(values + k0 / 2)
                                                                : d.converted[i]);
  for (int64_t k = k0; k < k1; k += kStep) {
    const int64_t at = (k - k0) / Kind::kPerEntry;
    const T* from = values + k / 2;
    const uint8_t* places = positions + k / 8;
    T last[kStep / 2] = {};
    uint8_t last_places[kStep / 8] = {};
    if (!whole && k + kStep > groups * 4) {
      from = static_cast<T*>(std::memcpy(last, from, (groups * 2 - k / 2) * sizeof(T)));
      places = static_cast<uint8_t*>(std::memcpy(last_places, places, bytes - k / 8));
    }
    if (!Kind::kDirect || !whole) Kind::convert(from, d.converted[i] + at);
    Kind::template offsets<V>(places, d.offset[i] + at, static_cast<uint32_t>((k - k0) * Kind::tile_bytes(V)));
  }
}

template <class Kind, int V, int R>
inline void multiply(const char* x, const Decoded<Kind, V>& d, int first, int64_t entries, float* sums) {
  vf s[R][V] = {};
  for (int64_t j = 0; j < entries; ++j)
    for (int r = 0; r < R; ++r) {
      uint32_t w;
      std::memcpy(&w, d.v[first + r] + 4 * j, 4);
      const char* from = x + d.offset[first + r][j];
      for (int t = 0; t < V; ++t) s[r][t] = Kind::add(s[r][t], w, from + t * W * 4);
    }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < V; ++t) {
      float* to = sums + (r * V + t) * W;
      store(to, load(to) + s[r][t]);  // a sum of sums also rounds better than one long chain
    }
}

// Sums [row][m of the tile] to y [m][row].
template <class D, int V>
void finish_block(const Plan& p, const float* sums, Tile tile, int64_t row0, int64_t rows) {
  alignas(64) float lines[W][kPiece + W];
  for (int t = 0; t < V; ++t) {
    for (int64_t r = 0; r < rows; r += W) {
      vf block[W];
      for (int i = 0; i < W; ++i) block[i] = load(sums + ((r + i) * V + t) * W);
      transpose(block);
      for (int i = 0; i < W; ++i) store(lines[i] + r, block[i]);
    }
    const int64_t m0 = (tile.first + t) * W;
    for (int64_t m = m0; m < least(m0 + W, p.a.m); ++m) finish_row<D>(p.a, lines[m - m0], m, row0, rows);
  }
}

// kAhead rows against columns [k0, k1): their sums grow.
template <class Kind, int V>
void run_rows(const Plan& p, const char* x, int64_t row, int64_t k0, int64_t k1, float* sums) {
  constexpr int R = rows_at_once(V), kBlock = k_block<Kind>(V);
  Decoded<Kind, V> d;
  for (int64_t k = k0; k < k1; k += kBlock) {
    const int64_t end = least(k + kBlock, k1);
    for (int i = 0; i < kAhead; ++i) decode<Kind, V>(p, least(row + i, p.a.n - 1), k, end, d, i);
    for (int i = 0; i < kAhead; i += R)
      multiply<Kind, V, R>(x + k * Kind::tile_bytes(V), d, i, (end - k) / Kind::kPerEntry, sums + i * V * W);
  }
}

// A piece of rows against a tile, in stretches of k whose part of the tile stays in L2.
template <class Kind, int V>
void run_tile(const Plan& p, Tile tile, int64_t row0, int64_t rows, float* sums) {
  constexpr int kBlock = k_block<Kind>(V), kLong = most(1, kL2Bytes / Kind::tile_bytes(V) / kBlock) * kBlock;
  const char* x = tile_data<Kind>(p, tile);
  std::memset(sums, 0, round_up(rows, W) * V * W * sizeof(float));
  for (int64_t k = 0; k < p.k_padded; k += kLong)
    for (int64_t r = 0; r < rows; r += kAhead)
      run_rows<Kind, V>(p, x, row0 + r, k, least(k + kLong, p.k_padded), sums + r * V * W);
  finish_block<typename Kind::D, V>(p, sums, tile, row0, rows);
}

template <class Kind, int V = kMaxVectors>
void run_tile_of(const Plan& p, Tile tile, int64_t row0, int64_t rows, float* sums) {
  if constexpr (V > 1)
    if (tile.count < V) return run_tile_of<Kind, V - 1>(p, tile, row0, rows, sums);
  run_tile<Kind, V>(p, tile, row0, rows, sums);
}

template <class Kind>
void run_tiles(const Plan& p, int64_t begin, int64_t end, char* local) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row0 = i / p.tiles * p.row_block;
    run_tile_of<Kind>(p, tile_of(p, i % p.tiles), row0, least(p.row_block, p.a.n - row0),
                      reinterpret_cast<float*>(local));
  }
}

template <class Kind>
void plan_tiles(const Linear& a, int threads, Plan& p) {
  p.a = a;
  p.k_padded = round_up(most(a.k, 1), Kind::kStep);
  p.vectors = (a.m + W - 1) / W;
  p.tiles = (p.vectors + kMaxVectors - 1) / kMaxVectors;
  p.scratch_bytes = p.vectors * Kind::tile_bytes(1) * p.k_padded;
  const int64_t pieces = round_up((a.n + kPiece - 1) / kPiece, threads);
  p.row_block = most(kAhead, round_up((a.n + pieces - 1) / pieces, kAhead));
  p.local_bytes = (p.row_block + W) * kMaxVectors * W * 4;
  p.prepare_tasks = p.tiles * ((p.k_padded + kStretch - 1) / kStretch);
  p.run_tasks = (a.n + p.row_block - 1) / p.row_block * p.tiles;
  p.prepare = prepare_tiles<Kind>;
  p.run = run_tiles<Kind>;
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
