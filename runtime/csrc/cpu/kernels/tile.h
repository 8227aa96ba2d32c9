// The product for many rows of x: a tile of x, transposed to [k][m] and small enough for L1 in blocks of k,
// meets rows of W one kept value at a time: broadcast the value, multiply with the row of the tile that its
// position names. Half the multiplications of the dense product; one load feeds each, so L1 sets the pace.
#pragma once

#include "epilogue.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int kMaxVectors = W == 16 ? 4 : 8;  // of m in a tile
constexpr int kTileBytes = 20 * 1024;         // of a k-block of the tile: leaves room in a 32 KB L1
constexpr int kStep = 32;                     // k per decoding step: 16 kept values, 4 bytes of positions
constexpr int kKept = kStep / 2;
constexpr int kMaxBlock = kTileBytes / (W * 4) / kStep * kStep;
constexpr int kRowBlock = 64;

// Rows of W handled together: enough independent sums to hide the latency of the multiply-add.
constexpr int rows_at_once(int vectors) { return vectors == 1 ? 4 : vectors <= 2 ? 4 : vectors <= 4 ? 2 : 1; }
constexpr int k_block(int vectors, int bytes) {
  const int fit = kTileBytes / (vectors * bytes) / kStep * kStep;
  return fit < kStep ? kStep : fit;
}

struct Tile {
  int64_t first, count;  // vectors of m
};
inline Tile tile_of(const Plan& p, int64_t t) {
  const int64_t first = t * p.vectors / p.tiles;
  return {first, (t + 1) * p.vectors / p.tiles - first};
}

// x to [k][m] in fp32, one task for each tile and stretch of k; rows past m and columns past k are zero.
constexpr int64_t kStretch = 512;

template <class D>
void transpose_tile(const Plan& p, Tile tile, int64_t k0, int64_t k1) {
  const int64_t width = tile.count * W, m0 = tile.first * W;
  float* to = reinterpret_cast<float*>(p.scratch) + m0 * p.k_padded;
  for (int64_t i = 0; i < width; ++i) {
    const bool inside = m0 + i < p.a.m;
    const auto* from = static_cast<const typename D::T*>(p.a.x) + (inside ? m0 + i : 0) * p.a.x_stride;
    const int64_t end = inside ? least(k1, p.a.k) : k0;
    int64_t k = k0;
    for (; k < end; ++k) to[k * width + i] = D::get(from + k);
    for (; k < k1; ++k) to[k * width + i] = 0;
  }
}

template <class D>
void prepare_tiles(const Plan& p, int64_t begin, int64_t end) {
  const int64_t stretches = (p.k_padded + kStretch - 1) / kStretch;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t k0 = i % stretches * kStretch;
    transpose_tile<D>(p, tile_of(p, i / stretches), k0, least(k0 + kStretch, p.k_padded));
  }
}

// Values to fp32 and positions to byte offsets into the tile, 16 kept values at a time.
template <class D, int kPitch>
inline void decode_step(const typename D::T* values, const uint8_t* positions, float* v, uint32_t* offset, int64_t k) {
  uint32_t word;
  std::memcpy(&word, positions, 4);
  for (int h = 0; h < kKept; h += W) {
    vu shift, base;
    for (int i = 0; i < W; ++i) {
      shift[i] = 2 * (h + i);
      base[i] = (h + i) / 2 * 4 * kPitch;
    }
    store(v + h, D::load(values + h));
    *reinterpret_cast<vu_any*>(offset + h) =
        (((vu{} + word) >> shift) & 3) * kPitch + (base + static_cast<uint32_t>(k * kPitch));
  }
}

template <class D, int kPitch>
inline void decode(const Plan& p, int64_t row, int64_t k0, int64_t k1, float* v, uint32_t* offset) {
  const int64_t groups = (p.a.k + 3) / 4, bytes = (groups + 1) / 2;
  const auto* values = static_cast<const typename D::T*>(p.a.values) + row * groups * 2;
  const uint8_t* positions = p.a.positions + row * bytes;
  int64_t k = k0;
  for (; k + kStep <= k1 && k + kStep <= groups * 4; k += kStep)
    decode_step<D, kPitch>(values + k / 2, positions + k / 8, v + (k - k0) / 2, offset + (k - k0) / 2, k - k0);
  if (k < k1) {
    typename D::T last[kKept] = {};
    uint8_t last_positions[4] = {};
    std::memcpy(last, values + k / 2, (groups * 2 - k / 2) * sizeof(typename D::T));
    std::memcpy(last_positions, positions + k / 8, bytes - k / 8);
    decode_step<D, kPitch>(last, last_positions, v + (k - k0) / 2, offset + (k - k0) / 2, k - k0);
  }
}

template <int V, int R>
inline void multiply(const char* x, const float (*v)[kMaxBlock / 2], const uint32_t (*offset)[kMaxBlock / 2],
                     int64_t kept, float* sums) {
  vf s[R][V];
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < V; ++t) s[r][t] = load(sums + (r * V + t) * W);
  for (int64_t j = 0; j < kept; ++j)
    for (int r = 0; r < R; ++r) {
      const vf w = splat(v[r][j]);
      const float* from = reinterpret_cast<const float*>(x + offset[r][j]);
      for (int t = 0; t < V; ++t) s[r][t] += w * load(from + t * W);
    }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < V; ++t) store(sums + (r * V + t) * W, s[r][t]);
}

// Sums [row][m of the tile] to y [m][row].
template <class D>
void finish_block(const Plan& p, const float* sums, int64_t pitch, int64_t m0, int64_t m1, int64_t row0, int64_t rows) {
  alignas(64) float line[kRowBlock];
  for (int64_t m = m0; m < m1; ++m) {
    for (int64_t r = 0; r < rows; ++r) line[r] = sums[r * pitch + m - m0];
    finish_row<D>(p.a, line, m, row0, rows);
  }
}

template <class D, int V>
void run_tile(const Plan& p, Tile tile, int64_t row0, int64_t rows) {
  constexpr int R = rows_at_once(V), kPitch = V * W * 4, kBlock = k_block(V, W * 4);
  alignas(64) float sums[kRowBlock * V * W] = {};
  alignas(64) float v[R][kMaxBlock / 2];
  alignas(64) uint32_t offset[R][kMaxBlock / 2];
  const char* x = p.scratch + tile.first * W * p.k_padded * 4;
  for (int64_t k0 = 0; k0 < p.k_padded; k0 += kBlock) {
    const int64_t k1 = least(k0 + kBlock, p.k_padded);
    for (int64_t r = 0; r < rows; r += R) {
      for (int i = 0; i < R; ++i) decode<D, kPitch>(p, row0 + least(r + i, rows - 1), k0, k1, v[i], offset[i]);
      multiply<V, R>(x + k0 * kPitch, v, offset, (k1 - k0) / 2, sums + r * V * W);
    }
  }
  finish_block<D>(p, sums, V * W, tile.first * W, least((tile.first + V) * W, p.a.m), row0, rows);
}

template <class D, int V = kMaxVectors>
void run_tile_of(const Plan& p, Tile tile, int64_t row0, int64_t rows) {
  if constexpr (V > 1)
    if (tile.count < V) return run_tile_of<D, V - 1>(p, tile, row0, rows);
  run_tile<D, V>(p, tile, row0, rows);
}

template <class D>
void run_tiles(const Plan& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row0 = i / p.tiles * p.row_block;
    run_tile_of<D>(p, tile_of(p, i % p.tiles), row0, least(p.row_block, p.a.n - row0));
  }
}

template <class D>
void plan_tiles(const Linear& a, int threads, Plan& p) {
  p.a = a;
  p.k_padded = round_up(most(a.k, 1), kStep);
  p.vectors = (a.m + W - 1) / W;
  p.tiles = (p.vectors + kMaxVectors - 1) / kMaxVectors;
  p.scratch_bytes = p.vectors * W * p.k_padded * 4;
  p.row_block = most(8, least(kRowBlock, round_up((a.n + threads - 1) / threads, 8)));
  p.prepare_tasks = p.tiles * ((p.k_padded + kStretch - 1) / kStretch);
  p.run_tasks = (a.n + p.row_block - 1) / p.row_block * p.tiles;
  p.prepare = prepare_tiles<D>;
  p.run = run_tiles<D>;
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
