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
constexpr int kLongBytes = 384 * 1024;        // of a stretch of k of the tiles of a group: stays in L2
constexpr int kGroup = 2;                     // tiles that share one decoding of W
constexpr int kPiece = 256;                   // most rows of W in a task
constexpr int kEntryBytes = 128 * 1024;       // of decoded rows of W over a stretch of k: stays in L2
constexpr int kManyRows = 32;                 // rows of W that meet one k-block before the next, at most
constexpr int kStreams = 8;    // rows of W read at once: hardware prefetch follows about 16 streams, not 32
constexpr int64_t kPart = 512;  // k of a prepare task

// Rows of W multiplied together: enough independent sums to hide the latency of the multiply-add.
constexpr int rows_at_once(int vectors) { return vectors <= 2 ? 4 : vectors <= 4 ? 2 : 1; }

template <class Kind>
constexpr int k_block(int vectors) {
  return static_cast<int>(most(1, kBlockBytes / Kind::tile_bytes(vectors) / Kind::kStep)) * Kind::kStep;
}

// Tiles of equal width, next to each other. The vectors of m are dealt to tiles that differ by one at most, the
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

// `kRows` rows of W over a stretch of k, as entries [k-block][row][entry]: values of 4 bytes, and byte offsets into the
// k-block of the tile.
template <class Kind, int V, int kRows>
struct Entries {
  static constexpr int kBlock = k_block<Kind>(V), kEach = kBlock / Kind::kPerEntry;
  uint32_t* values;
  uint32_t* offsets;
  int64_t at(int64_t k, int64_t row) const {
    return (k / kBlock * kRows + row) * kEach + k % kBlock / Kind::kPerEntry;
  }
};

template <class Kind, int V>
inline void decode_step(const Plan& p, int64_t row, int64_t k, uint32_t* entry_values, uint32_t* entry_offsets,
                        int64_t in_block) {
  using T = typename Kind::D::T;
  constexpr int kStep = Kind::kStep;
  const int64_t groups = (p.a.k + 3) / 4, bytes = (groups + 1) / 2;
  const T* values = static_cast<const T*>(p.a.values) + row * groups * 2 + k / 2;
  const uint8_t* positions = p.a.positions + row * bytes + k / 8;
  T last[kStep / 2];
  uint8_t last_positions[kStep / 8];
  if (k + kStep > groups * 4) {
    std::memset(last, 0, sizeof(last));
    std::memset(last_positions, 0, sizeof(last_positions));
    values = static_cast<T*>(std::memcpy(last, values, (groups * 2 - k / 2) * sizeof(T)));
    positions = static_cast<uint8_t*>(std::memcpy(last_positions, positions, bytes - k / 8));
  }
  Kind::convert(values, entry_values);
  Kind::template offsets<V>(positions, entry_offsets, static_cast<uint32_t>(in_block * Kind::tile_bytes(V)));
}

template <class Kind, int V, int kRows>
void decode(const Plan& p, int64_t row, int64_t k0, int64_t k1, const Entries<Kind, V, kRows>& e) {
  for (int64_t r = 0; r < kRows; r += kStreams)
    for (int64_t k = k0; k < k1; k += Kind::kStep)
      for (int64_t i = r; i < r + kStreams; ++i) {
        const int64_t at = e.at(k - k0, i);
        decode_step<Kind, V>(p, least(row + i, p.a.n - 1), k, e.values + at, e.offsets + at, (k - k0) % e.kBlock);
      }
}

// R rows against one k-block of a tile. Not inlined: in a larger function its pointers leave the registers.
template <class Kind, int V, int R>
__attribute__((noinline)) void multiply(const char* x, const uint32_t* values, const uint32_t* offsets, int64_t count, float* sums) {
  constexpr int kEach = k_block<Kind>(V) / Kind::kPerEntry;
  vf s[R][V] = {};
  for (int64_t j = 0; j < count; ++j)
    for (int r = 0; r < R; ++r) {
      const char* from = x + offsets[r * kEach + j];
      for (int t = 0; t < V; ++t) s[r][t] = Kind::add(s[r][t], values[r * kEach + j], from + t * W * 4);
    }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < V; ++t) {
      float* to = sums + (r * V + t) * W;
      store(to, load(to) + s[r][t]);  // a sum of sums also rounds better than one long chain
    }
}

// Decoded rows against columns [k0, k1) of a tile.
template <class Kind, int V, int kRows>
void run_rows(const char* x, const Entries<Kind, V, kRows>& e, int64_t k0, int64_t k1, float* sums) {
  constexpr int R = rows_at_once(V), kBlock = e.kBlock;
  for (int64_t k = k0; k < k1; k += kBlock) {
    const int64_t count = least(kBlock, k1 - k) / Kind::kPerEntry;
    for (int r = 0; r < kRows; r += R) {
      const int64_t at = e.at(k - k0, r);
      multiply<Kind, V, R>(x + k * Kind::tile_bytes(V), e.values + at, e.offsets + at, count, sums + r * V * W);
    }
  }
}

// Sums [row][m of the tile] to y [m][row].
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

// A piece of rows against a group of tiles, in stretches of k whose part of the tiles stays in L2. kManyRows are decoded
// over the whole stretch before they are multiplied; kStreams rows, block by block.
template <class Kind, int V, int kRows>
void run_group(const Plan& p, Group g, int64_t row0, int64_t rows, char* local) {
  constexpr int kBlock = k_block<Kind>(V);
  constexpr int64_t kFits = kEntryBytes / (kRows * 8) * Kind::kPerEntry;
  const int64_t in_l2 = kLongBytes / (g.tiles * Kind::tile_bytes(V));
  const int64_t length = most(1, (kRows == kStreams ? in_l2 : least(in_l2, kFits)) / kBlock) * kBlock;
  const int64_t decoded = kRows == kStreams ? kBlock : length, pitch = round_up(rows, kRows) * V * W;
  float* sums = reinterpret_cast<float*>(local);
  auto* entries = reinterpret_cast<uint32_t*>(sums + g.tiles * pitch);
  const Entries<Kind, V, kRows> e = {entries, entries + decoded / Kind::kPerEntry * kRows};
  std::memset(sums, 0, g.tiles * pitch * sizeof(float));
  for (int64_t k0 = 0; k0 < p.k_padded; k0 += length)
    for (int64_t r = 0; r < rows; r += kRows)
      for (int64_t k = k0; k < least(k0 + length, p.k_padded); k += decoded) {
        const int64_t end = least(k + decoded, least(k0 + length, p.k_padded));
        decode<Kind, V>(p, row0 + r, k, end, e);
        for (int64_t t = 0; t < g.tiles; ++t)
          run_rows<Kind, V>(tile_data<Kind>(p, g.first + t * V), e, k, end, sums + t * pitch + r * V * W);
      }
  for (int64_t t = 0; t < g.tiles; ++t)
    finish_tile<typename Kind::D, V>(p, sums + t * pitch, g.first + t * V, row0, rows);
}

// Where there is arithmetic enough, many rows are decoded first, which spares most of the tile's way from L2 to L1;
// else decoding goes along with the products, which hides the memory's time.
template <class Kind, int V = kMaxVectors>
void run_group_of(const Plan& p, Group g, int64_t row0, int64_t rows, char* local) {
  if constexpr (V > 1)
    if (g.width < V) return run_group_of<Kind, V - 1>(p, g, row0, rows, local);
  if constexpr (V * W >= 64)
    if (Kind::kPerEntry == 2 || g.tiles > 1) return run_group<Kind, V, kManyRows>(p, g, row0, rows, local);
  run_group<Kind, V, kStreams>(p, g, row0, rows, local);
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
int64_t local_bytes(const Plan& p) {
  const int64_t sums = kGroup * round_up(p.row_block, kManyRows) * kMaxVectors * W * 4;
  const int64_t least_block = kManyRows * k_block<Kind>(1) / Kind::kPerEntry * 8;  // at least one k-block is decoded
  return sums + most(kEntryBytes, least_block);
}

template <class Kind>
void plan_tiles(const Linear& a, int threads, Plan& p) {
  p.a = a;
  p.k_padded = round_up(most(a.k, 1), Kind::kStep);
  p.vectors = ceil_div(a.m, W);
  p.tiles = ceil_div(p.vectors, kMaxVectors);
  p.scratch_bytes = p.vectors * Kind::tile_bytes(1) * p.k_padded;
  const int64_t pieces = round_up(ceil_div(a.n, kPiece), threads);
  p.row_block = round_up(ceil_div(most(a.n, 1), pieces), kStreams);
  p.local_bytes = local_bytes<Kind>(p);
  p.prepare_tasks = p.tiles * ceil_div(p.k_padded, kPart);
  p.run_tasks = ceil_div(a.n, p.row_block) * count_groups(p);
  p.prepare = prepare_tiles<Kind>;
  p.run = run_tiles<Kind>;
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
