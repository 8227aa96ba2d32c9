// The product with AMX: 16 rows of W by 32 of k, decompressed by an expanding move, times 32 of k by 16 rows of x. An
// fp16 is the exact sum of two bf16, a head and a tail, so its product takes four such products.
#pragma once

#include "amx.h"
#include "epilogue.h"
#include "transpose.h"

#if defined(__AMX_BF16__) && defined(__AVX512VBMI2__)
namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int64_t kAmxSteps = 8;                       // tiles of 32 of k in a block of W: two and those of x fit in L1
constexpr int64_t kAmxPitch = kAmxSteps * kTileBytes;  // from one tile of rows of W to the next
constexpr int64_t kAmxRows = 256;                      // most rows of W in a task
constexpr int64_t kAmxSmallBytes = 1 << 20;            // of x in tiles that stay in L2 while W streams by
constexpr int kAmxAhead = 2;                           // blocks of W that are prefetched

// The conversion of a storage type: each tile becomes kParts tiles of bf16.
template <class D>
struct Bf16Parts;

template <>
struct Bf16Parts<BF16> {
  static constexpr int kFew = 4;  // rows of x up to which another kernel was measured to be faster
  static constexpr int kParts = 1;
  static void split(__m512i v, __m512i (&parts)[1]) { parts[0] = v; }
  static void split(__m256i v, __m256i (&parts)[1]) { parts[0] = v; }
};

template <>
struct Bf16Parts<F16> {
  static constexpr int kFew = 8;
  static constexpr int kParts = 2;
  static void split(__m256i v, __m256i (&parts)[2]) {
    const __m512 whole = _mm512_cvtph_ps(v);
    parts[0] = (__m256i)_mm512_cvtneps_pbh(whole);
    const __m512 tail = whole - (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(parts[0]), 16);
    // Inf and NaN have no tail.
    parts[1] = (__m256i)_mm512_maskz_cvtneps_pbh(_mm512_cmp_ps_mask(tail, tail, _CMP_ORD_Q), tail);
  }
  static void split(__m512i v, __m512i (&parts)[2]) {
    __m256i low[2], high[2];
    split(_mm512_castsi512_si256(v), low);
    split(_mm512_extracti64x4_epi64(v, 1), high);
    for (int p = 0; p < 2; ++p) parts[p] = _mm512_inserti64x4(_mm512_castsi256_si512(low[p]), high[p], 1);
  }
};

// Converts 64 bytes of positions to 512 bits, one for each column, which are set for kept values; a nibble 0 keeps
// none.
inline __m512i kept_columns(__m512i positions) {
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i columns = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 3, 0, 0, 0, 5, 6, 0, 0, 9, 10, 12, 0));
  const __m512i even = _mm512_shuffle_epi8(columns, _mm512_and_si512(positions, low));
  const __m512i odd = _mm512_shuffle_epi8(columns, _mm512_and_si512(_mm512_srli_epi16(positions, 4), low));
  return _mm512_or_si512(even, _mm512_slli_epi16(odd, 4));
}

// One row of a block of W: `steps` tiles of 32 of k, of which the row has `values_left` and `positions_left`.
struct RowBlock {
  const uint16_t* values;
  const uint8_t* positions;
  int64_t values_left, positions_left, steps;

  void fetch() const {
    prefetch(positions);
    for (int64_t j = 0; j < kAmxSteps; j += 2) prefetch(values + j * 16);
  }

  // Decompresses to dense tiles [part][step]; `to` is the row in the first tile.
  template <class D>
  void spread(char* to) const {
    const auto first = [](int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; };
    alignas(64) uint32_t columns[16];
    _mm512_store_si512(columns, kept_columns(_mm512_maskz_loadu_epi8(first(positions_left), positions)));
    asm volatile("" : "+m"(columns));  // a mask is loaded faster than extracted
    const auto put = [&](int64_t j, __m256i kept) {
      constexpr int kParts = Bf16Parts<D>::kParts;
      __m256i parts[kParts];
      Bf16Parts<D>::split(kept, parts);
      for (int q = 0; q < kParts; ++q)
        _mm512_store_si512(to + q * kAmxPitch + j * kTileBytes,
                           _mm512_maskz_expand_epi16(columns[j], _mm512_castsi256_si512(parts[q])));
    };
    const int64_t whole = least(steps, values_left / 16);
    for (int64_t j = 0; j < whole; ++j) put(j, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + j * 16)));
    if (whole < steps)
      put(whole, _mm256_maskz_loadu_epi16(static_cast<__mmask16>(first(values_left - whole * 16)), values + whole * 16));
  }
};

// A block of W: two tiles of rows over some steps of k. A task processes all its rows over a stretch of k, then the
// next.
template <class D>
struct Block {
  static constexpr int64_t kRows = 32 / Bf16Parts<D>::kParts;
  const Plan* p;
  int64_t row0, r0, j0;  // first row of the task; of the block, from there; first step

  int64_t all_steps() const { return p->k_padded / 32; }
  int64_t steps() const { return least(kAmxSteps, all_steps() - j0); }
  int64_t task_rows() const { return least(p->row_block, p->a.n - row0); }
  Block next() const {
    if (r0 + kRows < task_rows()) return {p, row0, r0 + kRows, j0};
    if (j0 + kAmxSteps < all_steps()) return {p, row0, 0, j0 + kAmxSteps};
    return {p, row0 + p->row_block, 0, 0};
  }
  RowBlock row(int64_t r) const {  // rows past n repeat the last
    const int64_t groups = (p->a.k + 3) / 4, bytes = (groups + 1) / 2, at = least(row0 + r0 + r, p->a.n - 1);
    return {static_cast<const uint16_t*>(p->a.values) + at * groups * 2 + j0 * 16, p->a.positions + at * bytes + j0 * 4,
            groups * 2 - j0 * 16, bytes - j0 * 4, steps()};
  }
};

// Decompresses a block in small steps, so that its memory is read while another block is multiplied.
template <class D>
struct Spreading {
  Block<D> block, ahead;
  char* buffer;
  int64_t turns, done = 0, turn = 0;

  void operator()() {
    constexpr int64_t kRows = Block<D>::kRows;
    const int64_t until = kRows * ++turn / turns;
    for (; done < until; ++done) {
      ahead.row(done).fetch();
      block.row(done).template spread<D>(buffer + done / 16 * kAmxPitch + done % 16 * 64);
    }
  }
};

// The loading and storing of sums before and after a block.
struct Sums {
  bool zero, load, store;
};

// Multiplies two tiles of rows of W with NX tiles of rows of x over `steps`, and calls `between` in each step.
template <int NX, class F>
inline void multiply_tiles(const char* w, const char* x, int64_t x_pitch, int64_t steps, char* sums, int64_t pitch,
                           Sums how, F& between) {
  if (how.load) {
    tile_load<0>(sums), tile_load<1>(sums + kTileBytes);
    if constexpr (NX == 2) tile_load<2>(sums + pitch), tile_load<3>(sums + pitch + kTileBytes);
  } else if (how.zero) {
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
  }
  for (int64_t j = 0; j < steps; ++j, w += kTileBytes, x += kTileBytes) {
    tile_load<4>(w);
    tile_load<6>(x);
    tile_multiply<0, 4, 6>();
    tile_load<5>(w + kAmxPitch);
    tile_multiply<1, 5, 6>();
    if constexpr (NX == 2) {
      tile_load<7>(x + x_pitch);
      tile_multiply<2, 4, 7>();
      tile_multiply<3, 5, 7>();
    }
    between();
  }
  if (!how.store) return;
  tile_store<0>(sums), tile_store<1>(sums + kTileBytes);
  if constexpr (NX == 2) tile_store<2>(sums + pitch), tile_store<3>(sums + pitch + kTileBytes);
}

// Multiplies a block, decompressed in `w`, with all rows of x; sums are tiles [tile of x][tile of W].
template <class D, class F>
void multiply_block(const Block<D>& b, const char* w, char* sums, F& between) {
  const Plan& p = *b.p;
  constexpr int kParts = Bf16Parts<D>::kParts;
  const int64_t x_tiles = p.vectors * kParts, x_pitch = b.steps() * kTileBytes;
  const int64_t pitch = p.row_block / 16 * kParts * kTileBytes;
  char* to = sums + b.r0 / 16 * kParts * kTileBytes;
  const char* x = p.scratch + b.j0 * x_tiles * kTileBytes;
  // The sums stay in the tile registers if all of them fit.
  const bool stay = x_tiles <= 2 && p.row_block <= b.kRows;
  const bool first = b.j0 == 0, last = b.j0 + b.steps() == b.all_steps();
  const Sums how = {first, !first && !stay, last || !stay};
  int64_t t = 0;
  for (; t + 2 <= x_tiles; t += 2)
    multiply_tiles<2>(w, x + t * x_pitch, x_pitch, b.steps(), to + t * pitch, pitch, how, between);
  if (t < x_tiles) multiply_tiles<1>(w, x + t * x_pitch, x_pitch, b.steps(), to + t * pitch, pitch, how, between);
}

// Adds the parts' sums of 16 rows of W and 16 rows of x to rows of y.
template <int kParts>
inline void lines_of(const char* sums, int64_t pitch, vf (&lines)[W]) {
  for (int i = 0; i < W; ++i) {
    lines[i] = vf{};
    for (int x = kParts - 1; x >= 0; --x)
      for (int w = kParts - 1; w >= 0; --w)
        lines[i] += load(reinterpret_cast<const float*>(sums + x * pitch + w * kTileBytes) + i * W);
  }
  transpose(lines);
}

template <class D>
void finish_amx(const Plan& p, int64_t row0, int64_t rows, const char* sums) {
  constexpr int kParts = Bf16Parts<D>::kParts;
  const int64_t pitch = p.row_block / 16 * kParts * kTileBytes;
  for (int64_t t = 0; t < p.vectors; ++t) {
    alignas(64) float lines[W][kAmxRows];
    for (int64_t r = 0; r < rows; r += W) {
      vf block[W];
      lines_of<kParts>(sums + t * kParts * pitch + r / W * kParts * kTileBytes, pitch, block);
      for (int m = 0; m < W; ++m) store(lines[m] + r, block[m]);
    }
    for (int64_t m = t * W; m < least(t * W + W, p.a.m); ++m) finish_row<D>(p.a, lines[m - t * W], m, row0, rows);
  }
}

template <class D>
void run_amx(const Plan& p, int64_t begin, int64_t end, char* local) {
  char* const buffers[2] = {local, local + 2 * kAmxPitch};
  char* sums = local + 4 * kAmxPitch;
  const int64_t passes = (p.vectors * Bf16Parts<D>::kParts + 1) / 2, end_row = end * p.row_block;
  const TilesInUse tiles;
  Block<D> block = {&p, begin * p.row_block, 0, 0}, ahead = block;
  for (int i = 0; i < kAmxAhead; ++i) ahead = ahead.next();
  Spreading<D>{block, ahead, buffers[0], 1}();
  for (int which = 0; block.row0 < least(end_row, p.a.n); which ^= 1) {
    const Block<D> next = block.next();
    ahead = ahead.next();
    Spreading<D> spreading = {next, ahead, buffers[which ^ 1], passes * block.steps()};
    multiply_block<D>(block, buffers[which], sums, spreading);
    if (next.row0 != block.row0) finish_amx<D>(p, block.row0, block.task_rows(), sums);
    block = next;
  }
}

// Copies x to tiles [block of k][16 rows of x][part][32 of k], each of which is [k / 2][row][k % 2].
template <class D>
void prepare_amx(const Plan& p, int64_t begin, int64_t end) {
  constexpr int kParts = Bf16Parts<D>::kParts;
  const int64_t steps = p.k_padded / 32;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t t = i / p.tiles, j0 = i % p.tiles * kAmxSteps, count = least(kAmxSteps, steps - j0);
    for (int64_t j = j0; j < j0 + count; ++j) {
      vf block[kParts][W];
      const int64_t left = p.a.k - j * 32;
      const __mmask32 columns = left >= 32 ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
      for (int r = 0; r < W; ++r) {
        const auto* row = static_cast<const uint16_t*>(p.a.x) + (t * W + r) * p.a.x_stride + j * 32;
        __m512i parts[kParts];
        Bf16Parts<D>::split(_mm512_maskz_loadu_epi16(t * W + r < p.a.m ? columns : 0, row), parts);
        for (int q = 0; q < kParts; ++q) block[q][r] = (vf)parts[q];
      }
      for (int q = 0; q < kParts; ++q) {
        transpose(block[q]);
        const int64_t tile = j0 * p.vectors * kParts + (t * kParts + q) * count + j - j0;
        auto* to = reinterpret_cast<float*>(p.scratch + tile * kTileBytes);
        for (int r = 0; r < W; ++r) store(to + r * W, block[q][r]);
      }
    }
  }
}

template <class D>
void plan_amx(const Linear& a, int threads, Plan& p) {
  constexpr int kParts = Bf16Parts<D>::kParts;
  p.a = a;
  p.k_padded = round_up(most(a.k, 1), 32);
  p.vectors = (a.m + W - 1) / W;
  p.tiles = (p.k_padded / 32 + kAmxSteps - 1) / kAmxSteps;  // blocks of k
  p.scratch_bytes = p.vectors * kParts * p.k_padded / 32 * kTileBytes;
  constexpr int64_t kRows = 32 / kParts;
  const int64_t share = (a.n + 2 * threads - 1) / (2 * threads) / kRows * kRows;  // two tasks a thread at least
  p.row_block = p.scratch_bytes <= kAmxSmallBytes ? kRows : most(kRows, least(kAmxRows, share));
  p.local_bytes = 4 * kAmxPitch + p.vectors * kParts * p.row_block / 16 * kParts * kTileBytes;
  p.prepare_tasks = p.vectors * p.tiles;
  p.run_tasks = (a.n + p.row_block - 1) / p.row_block;
  p.prepare = prepare_amx<D>;
  p.run = run_amx<D>;
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
#endif
