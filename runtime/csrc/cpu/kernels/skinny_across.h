// The product for a moderate number of rows of fp32 x on AVX2. The lanes of a register hold one kept value of each of
// eight rows of W; a byte shuffle gathers their x from a group of four that is broadcast to both halves. A multiply-add
// then needs one shuffle, where gathering along a row needs two and a blend, and there are no sums across lanes.
// Transposing W takes three shuffles for each register of values, which all rows of x share. A step is 128 of k, 16
// bytes of positions.
#pragma once

#include "skinny.h"

#if defined(__AVX2__) && !defined(__AVX512F__)
namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int kAcrossTo = 20;     // the most rows of x, beyond which the tile was measured to be faster
constexpr int kAcrossStep = 128;
constexpr int kAcrossAtOnce = 8;  // rows of x whose sums fit the registers

// A transposed step of eight rows of W: for each kept value of a row, a register of values and one of shuffle controls.
struct Turned {
  alignas(32) float values[kAcrossStep / 2][W];
  alignas(32) uint8_t positions[kAcrossStep / 2][4 * W];
};

// Transposes four columns of eight rows.
inline void turn(const float* const (&rows)[W], int64_t column, __m256 (&columns)[4]) {
  __m256 a[4];
  for (int i = 0; i < 4; ++i)
    a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[i] + column)), _mm_loadu_ps(rows[i + 4] + column), 1);
  const __m256 low = _mm256_unpacklo_ps(a[0], a[1]), high = _mm256_unpackhi_ps(a[0], a[1]);
  const __m256 low2 = _mm256_unpacklo_ps(a[2], a[3]), high2 = _mm256_unpackhi_ps(a[2], a[3]);
  columns[0] = _mm256_shuffle_ps(low, low2, 0x44);
  columns[1] = _mm256_shuffle_ps(low, low2, 0xee);
  columns[2] = _mm256_shuffle_ps(high, high2, 0x44);
  columns[3] = _mm256_shuffle_ps(high, high2, 0xee);
}

// Transposes a step. `positions` are only moved as floats, never computed with.
inline void turn_step(const float* const (&values)[W], const float* const (&positions)[W], Turned& w) {
  const __m256i each = _mm256_set1_epi32(0x03020100);
  const __m256i first = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8,
                                         12, 12, 12, 12);
  __m256 words[4];
  turn(positions, 0, words);
  for (int part = 0; part < 4; ++part)
    for (int c = 0; c < 16; c += 4) {
      __m256 columns[4];
      turn(values, part * 16 + c, columns);
      for (int i = 0; i < 4; ++i) {
        const int at = part * 16 + c + i;
        _mm256_store_ps(w.values[at], columns[i]);
        const auto word = reinterpret_cast<__m256i>(words[part]);
        const int place = 2 * (c + i);  // the byte offset of x is four times this
        const __m256i shifted = place < 2 ? _mm256_slli_epi32(word, 2 - place) : _mm256_srli_epi32(word, place - 2);
        const __m256i offset = _mm256_shuffle_epi8(_mm256_and_si256(shifted, _mm256_set1_epi32(12)), first);
        _mm256_store_si256(reinterpret_cast<__m256i*>(w.positions[at]), _mm256_add_epi32(offset, each));
      }
    }
}

// Multiplies a step with M rows of x. Not inlined, so that the sums stay in registers.
template <int M>
__attribute__((noinline)) void across(const Turned& w, const float* x, float* sums) {
  vf s[M] = {};
  for (int g = 0; g < kAcrossStep / 4; ++g) {
    const vf value0 = load(w.values[2 * g]), value1 = load(w.values[2 * g + 1]);
    const auto* positions = reinterpret_cast<const __m256i*>(w.positions[2 * g]);
    const __m256i position0 = positions[0], position1 = positions[1];
#pragma GCC unroll 8  // otherwise the sums are kept in memory
    for (int m = 0; m < M; ++m) {
      const auto four = reinterpret_cast<__m256i>(
          _mm256_broadcast_ps(reinterpret_cast<const __m128*>(x + m * kAcrossStep + g * 4)));
      s[m] += value0 * (vf)_mm256_shuffle_epi8(four, position0);
      s[m] += value1 * (vf)_mm256_shuffle_epi8(four, position1);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) store(sums + m * W, load(sums + m * W) + s[m]);  // partial sums round better
}

template <int M = kAcrossAtOnce>
void across_of(int64_t count, const Turned& w, const float* x, float* sums) {
  if constexpr (M > 1)
    if (count < M) return across_of<M - 1>(count, w, x, sums);
  across<M>(w, x, sums);
}

// Computes sums[m][row] for eight rows of W from `row` on; rows past n repeat the last.
inline void across_rows(const Plan& p, int64_t row, float* sums, int64_t pitch) {
  const int64_t groups = (p.a.k + 3) / 4, bytes = (groups + 1) / 2, parts = (p.a.m + kAcrossAtOnce - 1) / kAcrossAtOnce;
  const auto* x = reinterpret_cast<const float*>(p.scratch);
  alignas(32) float own[kAcrossTo * W] = {};
  Turned w;
  for (int64_t k = 0; k < p.k_padded; k += kAcrossStep, x += p.a.m * kAcrossStep) {
    const float *values[W], *positions[W];
    float edge[W][kAcrossStep / 2 + kAcrossStep / 32];
    const int64_t left = groups * 2 - k / 2;
    for (int i = 0; i < W; ++i) {
      const int64_t at = least(row + i, p.a.n - 1);
      values[i] = static_cast<const float*>(p.a.values) + at * groups * 2 + k / 2;
      positions[i] = reinterpret_cast<const float*>(p.a.positions + at * bytes + k / 8);
      if (left < kAcrossStep / 2) {
        std::memset(edge[i], 0, sizeof(edge[i]));
        std::memcpy(edge[i] + kAcrossStep / 2, positions[i], bytes - k / 8);
        values[i] = static_cast<float*>(std::memcpy(edge[i], values[i], left * 4));
        positions[i] = edge[i] + kAcrossStep / 2;
        continue;
      }
      for (int64_t line = 0; line < kAcrossStep * 2; line += 64)
        fetch(values[i], kValuesAhead + line, left * 4, (W - 1) * groups * 8);
      fetch(positions[i], kPositionsAhead, bytes - k / 8, (W - 1) * bytes);
    }
    turn_step(values, positions, w);
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t m = p.a.m * i / parts;
      across_of(p.a.m * (i + 1) / parts - m, w, x + m * kAcrossStep, own + m * W);
    }
  }
  for (int64_t m = 0; m < p.a.m; ++m) store(sums + m * pitch, load(own + m * W));
}

inline void run_across(const Plan& p, int64_t begin, int64_t end, char*) {
  constexpr int64_t kPitch = kSkinnyBlock + W;
  alignas(64) float sums[kAcrossTo * kPitch];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row0 = i * p.row_block, rows = least(p.row_block, p.a.n - row0);
    for (int64_t r = 0; r < rows; r += W) across_rows(p, row0 + r, sums + r, kPitch);
    for (int64_t m = 0; m < p.a.m; ++m) finish_row<F32>(p.a, sums + m * kPitch, m, row0, rows);
  }
}

// Copies x to [step][m][128 of k], so that a step's rows don't collide in the cache.
inline void prepare_across(const Plan& p, int64_t begin, int64_t end) {
  for (int64_t m = begin; m < end; ++m)
    for (int64_t k = 0; k < p.k_padded; k += kAcrossStep) {
      auto* to = reinterpret_cast<float*>(p.scratch) + (k * p.a.m + m * kAcrossStep);
      const int64_t count = most(0, least(kAcrossStep, p.a.k - k));
      std::memcpy(to, static_cast<const float*>(p.a.x) + m * p.a.x_stride + k, count * 4);
      std::memset(to + count, 0, (kAcrossStep - count) * 4);
    }
}

inline void plan_across(const Linear& a, int threads, Plan& p) {
  p.a = a;
  p.k_padded = round_up(most(a.k, 1), kAcrossStep);
  p.scratch_bytes = a.m * p.k_padded * 4;
  p.row_block = most(W, least(kSkinnyBlock, round_up((a.n + threads - 1) / threads, W)));
  p.local_bytes = 0;
  p.prepare_tasks = a.m;
  p.run_tasks = (a.n + p.row_block - 1) / p.row_block;
  p.prepare = prepare_across;
  p.run = run_across;
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
#endif
