// The product for many rows of x. x is copied to tiles, each some vectors of m wide and all of k long. Each row of W is
// multiplied with a block of k that fits in L1, entry by entry: a kept value is broadcast and multiplied with the row
// of the tile at its position. This takes half the multiplications of the dense product, with one load from L1 for
// each. W is first copied in the order in which it will be read, because lines of many rows, of which only a little is
// read at a time, would be evicted from L1. `Kind` defines an entry: see tile_wide.h and tile_pairs.h.
#pragma once

#include "epilogue.h"
#include "transpose.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int kMaxVectors = W == 16 ? 4 : 8;  // most vectors of m in a tile
constexpr int kLongBytes = 384 * 1024;        // of x in a stretch of k of a group's tiles, which stays in L2
constexpr int kLong = 1024;                   // most k in a stretch
constexpr int kGroup = 2;                     // tiles that are multiplied with a stretch of W while it is in L2
constexpr int kPiece = 256;                   // most rows of W in a task
constexpr int kManyRows = 32;                 // rows of W that are multiplied with one k-block before the next
constexpr int kRowUnit = 8;                   // a task's rows are a multiple of this
constexpr int64_t kPart = 512;  // k of a prepare task

// Returns the rows of W that are multiplied together: enough independent sums to hide the latency of the multiply-add.
constexpr int rows_at_once(int vectors) { return vectors <= 2 ? 4 : vectors <= 4 ? 2 : 1; }

// Returns the k of a block of `V` vectors; a stretch consists of whole blocks.
template <class Kind, int V>
inline int64_t k_block(const Plan& p) {
  return most(1, least(p.block_bytes / Kind::tile_bytes(V), kLong) / Kind::kStep) * Kind::kStep;
}

// Adjacent tiles of equal width. The vectors of m are distributed to tiles whose widths differ by at most one, the
// wider ones first.
struct Group {
  int64_t first, width, tiles;  // first vector of m; vectors in a tile; tiles
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline Group group_of(const Plan& p, int64_t g, int64_t size) {
  const int64_t width = p.vectors / p.tiles, wider = p.vectors % p.tiles, groups = ceil_div(wider, size);
  if (g < groups) return {g * size * (width + 1), width + 1, least(size, wider - g * size)};
  const int64_t tile = (g - groups) * size;
  return {wider * (width + 1) + tile * width, width, least(size, p.tiles - wider - tile)};
}

inline int64_t count_groups(const Plan& p) {
  const int64_t wider = p.vectors % p.tiles;
  return ceil_div(wider, kGroup) + ceil_div(p.tiles - wider, kGroup);
}

template <class Kind>
inline char* tile_data(const Plan& p, int64_t first) {
  return p.scratch + first * Kind::tile_bytes(1) * p.k_padded;
}

template <class Kind>
void prepare_part(const Plan& p, Group tile, int64_t k0, int64_t k1) {
  using T = typename Kind::D::T;
  for (int64_t v = 0; v < tile.width; ++v) {
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
      Kind::put(rows, k, tile.width * W, tile_data<Kind>(p, tile.first) + v * W * 4);
    }
  }
}

template <class Kind>
void prepare_tiles(const Plan& p, int64_t begin, int64_t end) {
  const int64_t parts = ceil_div(p.k_padded, kPart);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t k0 = i % parts * kPart;
    prepare_part<Kind>(p, group_of(p, i / parts, 1), k0, least(k0 + kPart, p.k_padded));
  }
}

// For each byte of positions, the offsets of its entries in the tile, in bytes from the first of the byte's eight
// columns.
template <class Kind, int V>
struct Offsets {
  alignas(64) uint16_t of[256][4];
  constexpr Offsets() : of() {
    for (int byte = 0; byte < 256; ++byte)
      for (int e = 0; e < Kind::kPerByte; ++e) of[byte][e] = static_cast<uint16_t>(Kind::place(byte, e) * V * W * 4);
  }
};
template <class Kind, int V>
constexpr Offsets<Kind, V> kOffsets{};

// Rows [row, row + rows) of W over columns [k0, k1), as records: for each k-block, each row's entries of 4 bytes
// followed by its positions.
struct Stretch {
  int64_t row, rows, k0, k1;
  const char* records;
};

template <class Kind>
constexpr int64_t entry_bytes(int64_t k) { return k / Kind::kPerEntry * 4; }

template <class Kind>
constexpr int64_t record_bytes(int64_t k) { return entry_bytes<Kind>(k) + k / 8; }

// Multiplies R rows over `bytes` bytes of positions. Not inlined, because in a larger function its pointers are
// spilled.
template <class Kind, int V, int R>
__attribute__((noinline)) void multiply(const char* x, const char* const (&entries)[R], const uint8_t* const (&positions)[R],
                                        int64_t bytes, float* sums) {
  vf s[R][V] = {};
  for (int64_t j = 0; j < bytes; ++j, x += 8 * Kind::tile_bytes(V))
    for (int r = 0; r < R; ++r) {
      uint32_t values[Kind::kPerByte];
      uint64_t offsets;
      std::memcpy(values, entries[r] + j * sizeof(values), sizeof(values));
      std::memcpy(&offsets, kOffsets<Kind, V>.of[positions[r][j]], sizeof(offsets));
      for (int e = 0; e < Kind::kPerByte; ++e) {
        const char* from = x + (offsets >> e * 16 & 0xffff);
        for (int t = 0; t < V; ++t) s[r][t] = Kind::add(s[r][t], values[e], from + t * W * 4);
      }
    }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < V; ++t) {
      float* to = sums + (r * V + t) * W;
      store(to, load(to) + s[r][t]);  // sums of partial sums have smaller rounding errors
    }
}

// Prefetches columns [k, k + count) of row `row` into L2, for a later stretch.
template <class Kind>
inline void fetch_row(const Plan& p, int64_t row, int64_t k, int64_t count) {
  constexpr int64_t kSize = sizeof(typename Kind::D::T), kLine = 64;
  const int64_t groups = (p.a.k + 3) / 4, first = (row * groups * 2 + k / 2) * kSize;
  for (int64_t b = 0; b < count / 2 * kSize; b += kLine)
    prefetch<2>(static_cast<const char*>(p.a.values) + first + b);
  if (k / 8 % kLine < count / 8) prefetch<2>(p.a.positions + row * ((groups + 1) / 2) + k / 8);
}

// Multiplies a stretch of W with a tile, and meanwhile prefetches `next`, which is of the same length.
template <class Kind, int V>
void run_rows(const Plan& p, const char* x, const Stretch& w, const Stretch* next, float* sums) {
  constexpr int R = rows_at_once(V);
  const int64_t block = k_block<Kind, V>(p), size = record_bytes<Kind>(block);
  const char* records = w.records;
  for (int64_t k = w.k0; k < w.k1; k += block, records += w.rows * size)
    for (int64_t r = 0; r < w.rows; r += R) {
      const char* entries[R];
      const uint8_t* positions[R];
      for (int i = 0; i < R; ++i) {
        const int64_t row = least(r + i, w.rows - 1);
        entries[i] = records + row * size;
        positions[i] = reinterpret_cast<const uint8_t*>(entries[i] + entry_bytes<Kind>(block));
        if (next) fetch_row<Kind>(p, next->row + row, next->k0 + k - w.k0, block);
      }
      const int64_t bytes = ceil_div(least(block, least(w.k1, p.a.k) - k), 8);
      multiply<Kind, V, R>(x + k * Kind::tile_bytes(V), entries, positions, bytes, sums + r * V * W);
    }
}

// Copies columns [k0, k1) of a row of W in whole steps, with zeros past the end of the row.
template <class Kind>
inline void record(const Plan& p, int64_t row, int64_t k0, int64_t k1, char* entries, char* positions) {
  using T = typename Kind::D::T;
  constexpr int64_t kValues = Kind::kStep / 2, kBytes = Kind::kStep / 8;
  const int64_t kept = (p.a.k + 3) / 4 * 2, bytes = (kept + 3) / 4;
  const T* values = static_cast<const T*>(p.a.values) + row * kept + k0 / 2;
  const uint8_t* row_positions = p.a.positions + row * bytes + k0 / 8;
  const auto step = [&](const T* from, const uint8_t* at) {
    Kind::convert(from, reinterpret_cast<uint32_t*>(entries));
    std::memcpy(positions, at, kBytes);
    entries += entry_bytes<Kind>(Kind::kStep);
    positions += kBytes;
  };
  const int64_t count = (k1 - k0) / Kind::kStep, whole = least(count, (kept - k0 / 2) / kValues);
  for (int64_t i = 0; i < whole; ++i) step(values + i * kValues, row_positions + i * kBytes);
  if (whole == count) return;
  T last[kValues] = {};
  uint8_t last_positions[kBytes] = {};
  std::memcpy(last, values + whole * kValues, (kept - k0 / 2 - whole * kValues) * sizeof(T));
  std::memcpy(last_positions, row_positions + whole * kBytes, bytes - k0 / 8 - whole * kBytes);
  step(last, last_positions);
}

// Writes the records of a stretch to `buffer`, row by row, because the hardware prefetches only a few rows at a time.
template <class Kind, int V>
void record_stretch(const Plan& p, Stretch& w, char* buffer) {
  const int64_t block = k_block<Kind, V>(p), size = record_bytes<Kind>(block);
  w.records = buffer;
  for (int64_t r = 0; r < w.rows; ++r) {
    char* to = buffer + r * size;
    for (int64_t k = w.k0; k < w.k1; k += block, to += w.rows * size)
      record<Kind>(p, w.row + r, k, least(k + block, w.k1), to, to + entry_bytes<Kind>(block));
  }
}

// Writes the sums [row][m of the tile] to y [m][row].
template <class D, int V>
void finish_tile(const Plan& p, const float* sums, int64_t first, int64_t row0, int64_t rows) {
  alignas(64) float lines[W][kPiece + W];
  for (int t = 0; t < V; ++t) {
    for (int64_t r = 0; r < rows; r += W) {
      vf block[W];
      for (int i = 0; i < W; ++i) block[i] = load(sums + ((r + i) * V + t) * W);
      transpose(block);
      for (int i = 0; i < W; ++i) store(lines[i] + r, block[i]);
    }
    const int64_t m0 = (first + t) * W;
    for (int64_t m = m0; m < least(m0 + W, p.a.m); ++m) finish_row<D>(p.a, lines[m - m0], m, row0, rows);
  }
}

// Returns the bytes of the records of a stretch of kManyRows.
template <class Kind>
constexpr int64_t kBufferBytes = kManyRows * record_bytes<Kind>(kLong);

// Multiplies a piece of rows with a group of tiles, in stretches of k whose part of the tiles stays in L2.
template <class Kind, int V>
void run_group(const Plan& p, Group g, int64_t row0, int64_t rows, char* local) {
  const int64_t block = k_block<Kind, V>(p), pitch = round_up(rows, W) * V * W, end = row0 + rows;
  const int64_t length = most(1, least(kLong, kLongBytes / (g.tiles * Kind::tile_bytes(V))) / block) * block;
  float* sums = reinterpret_cast<float*>(local + kBufferBytes<Kind>);
  std::memset(sums, 0, g.tiles * pitch * sizeof(float));
  for (int64_t k = 0; k < p.k_padded; k += length)
    for (int64_t row = row0; row < end; row += kManyRows) {
      Stretch w = {row, least(kManyRows, end - row), k, least(k + length, p.k_padded), nullptr}, next = w;
      next.row = row + kManyRows < end ? row + kManyRows : row0;
      next.k0 = next.row == row0 ? k + length : k;
      const bool last = next.k0 >= p.k_padded;
      record_stretch<Kind, V>(p, w, local);
      for (int64_t t = 0; t < g.tiles; ++t)
        run_rows<Kind, V>(p, tile_data<Kind>(p, g.first + t * V), w, t || last ? nullptr : &next,
                          sums + t * pitch + (row - row0) * V * W);
    }
  for (int64_t t = 0; t < g.tiles; ++t)
    finish_tile<typename Kind::D, V>(p, sums + t * pitch, g.first + t * V, row0, rows);
}

template <class Kind, int V = kMaxVectors>
void run_group_of(const Plan& p, Group g, int64_t row0, int64_t rows, char* local) {
  if constexpr (V > 1)
    if (g.width < V) return run_group_of<Kind, V - 1>(p, g, row0, rows, local);
  run_group<Kind, V>(p, g, row0, rows, local);
}

template <class Kind>
void run_tiles(const Plan& p, int64_t begin, int64_t end, char* local) {
  const int64_t groups = count_groups(p);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row0 = i / groups * p.row_block;
    run_group_of<Kind>(p, group_of(p, i % groups, kGroup), row0, least(p.row_block, p.a.n - row0), local);
  }
}

template <class Kind>
void plan_tiles(const Linear& a, int threads, Plan& p) {
  p.a = a;
  p.k_padded = round_up(most(a.k, 1), Kind::kStep);
  p.vectors = ceil_div(a.m, W);
  p.tiles = ceil_div(p.vectors, kMaxVectors);
  p.scratch_bytes = p.vectors * Kind::tile_bytes(1) * p.k_padded;
  const int64_t pieces = round_up(ceil_div(a.n, kPiece), threads);
  p.row_block = round_up(ceil_div(most(a.n, 1), pieces), kRowUnit);
  p.local_bytes = kBufferBytes<Kind> + kGroup * round_up(p.row_block, W) * kMaxVectors * W * 4;
  p.prepare_tasks = p.tiles * ceil_div(p.k_padded, kPart);
  p.run_tasks = ceil_div(a.n, p.row_block) * count_groups(p);
  p.prepare = prepare_tiles<Kind>;
  p.run = run_tiles<Kind>;
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
