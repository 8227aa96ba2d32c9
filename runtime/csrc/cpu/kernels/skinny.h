// The product for few rows of x, which is bound by memory. Rows of W are read once, and each kept value is multiplied
// with the x at its position, which a permute gathers within a register.
#pragma once

#include "epilogue.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int kMaxSkinny = 4;     // rows of x at once
constexpr int kSkinnyBlock = 64;  // rows of W in a task, at most
constexpr int kValuesAhead = 2048;    // bytes that are prefetched: the hardware's prefetcher stops at every page
constexpr int kPositionsAhead = 256;  // and is slow to start again
constexpr int64_t kFarAhead = 8192;   // the least bytes of values that are prefetched into the second-level cache

// Prefetches what is read `ahead` bytes after `p`. `left` bytes of this row remain; the next row of its stream begins
// `skip` bytes after its end.
inline void fetch(const void* p, int64_t ahead, int64_t left, int64_t skip) {
  prefetch(static_cast<const char*>(p) + ahead + (ahead < left ? 0 : skip));
}

// Returns the prefetch distance of a group of rows with so many bytes: whole groups, so that every line is fetched
// once.
inline int64_t far_ahead(int64_t bytes) { return (kFarAhead / most(bytes, 1) + 1) * bytes; }

// fp32 lanes. A step is 32 of k: 16 kept values and 4 bytes of positions.
template <class D_>
struct Lanes {
  using D = D_;
  using X = float;
  static constexpr int kStep = 32;
  static constexpr bool kFar = sizeof(typename D::T) == 4;
  // Up to this many rows of x, loading each row of W several times was measured to be faster than a tile.
  static constexpr int kFew = W == 16 ? 24 : 4;
  static constexpr int kRows = 4;  // rows of W in a round over all rows of x: a multiple of every rows_at_once()
  static constexpr int rows_at_once(int m) { return W == 8 && m > 2 ? 2 : 4; }  // rows of W for `m` of x
#if defined(__AVX2__)
  static constexpr int kParts = 16 / W;  // parts of a step that are processed one at a time, to fit the registers
#else
  static constexpr int kParts = 1;
#endif

#if defined(__AVX2__)
  struct Kept {
    vf v;
    vu at;
  };
  struct Dense {
    vf low, high;
  };
#else
  struct Kept {
    float v[16];
    uint8_t at[16];
  };
  struct Dense {
    const float* x;
  };
#endif

  // Returns where x of column k, relative to its step, is stored.
  static constexpr int place(int k) {
#if defined(__AVX512F__) || !defined(__AVX2__)
    return k;
#else
    // Eight kept values need groups 0..3. A permute works within each half of a register, so groups 0 and 2 share one
    // register, and 1 and 3 the other.
    constexpr int to[4] = {0, 2, 1, 3};
    return k / 16 * 16 + to[k / 4 % 4] * 4 + k % 4;
#endif
  }
  static float convert(const typename D::T* p) { return D::get(p); }

#if defined(__AVX2__)
  static Kept kept(const typename D::T* values, const uint8_t* positions, int part) {
    uint32_t word;
    std::memcpy(&word, positions, 4);
    vu at = (vu{} + word) >> (kLane + static_cast<uint32_t>(part * W)) * 2;  // the permute of AVX2 reads the two low bits only
#if defined(__AVX512F__)
    at = (at & 3) | (kLane >> 1) * 4;
#endif
    return {D::load(values + part * W), at};
  }

  static Dense dense(const float* x, int part) {
    return {load(x + part * 2 * W), load(x + part * 2 * W + W)};
  }

  static void add(vf& s, const Kept& w, const Dense& d) {
#if defined(__AVX512F__)
    s += w.v * (vf)_mm512_permutex2var_ps((__m512)d.low, (__m512i)w.at, (__m512)d.high);
#else
    const __m256 even = _mm256_permutevar_ps((__m256)d.low, (__m256i)w.at);
    const __m256 odd = _mm256_permutevar_ps((__m256)d.high, (__m256i)w.at);
    s += w.v * (vf)_mm256_blend_ps(even, odd, 0xcc);
#endif
  }
#else
  static Kept kept(const typename D::T* values, const uint8_t* positions, int) {
    Kept r;
    for (int i = 0; i < 16; ++i) {
      r.v[i] = D::get(values + i);
      r.at[i] = static_cast<uint8_t>(i / 2 * 4 + (positions[i / 4] >> i % 4 * 2 & 3));
    }
    return r;
  }
  static Dense dense(const float* x, int) { return {x}; }
  static void add(vf& s, const Kept& w, const Dense& d) {
    for (int i = 0; i < 16; ++i) s[i % W] += w.v[i] * d.x[w.at[i]];
  }
#endif
};

// Prefetches W for the steps after one of row `r` of R, which has `left` columns from that step on. For memory-bound
// calls the lines go into the second-level cache, with all rows of a group as one stream, because the first-level cache
// supports too few requests in flight and rows are too short for separate streams; on Zen 4 with rows of 576 columns
// this was measured to be twice as fast. Otherwise they go into the first-level cache.
template <class L, int R>
inline void fetch_step(const typename L::D::T* const (&values)[R], const uint8_t* const (&positions)[R], int r, int64_t left,
                       int64_t step, int64_t group) {
  constexpr int64_t kSize = sizeof(typename L::D::T), kValues = L::kStep / 2, kBytes = L::kStep / 8;
  if constexpr (L::kFar) {  // the positions, at most a ninth of the bytes, come fast enough by themselves
    if (r * kValues * kSize % 64 != 0) return;  // a line that the row before fetched
    const auto* at = reinterpret_cast<const char*>(values[0]) + (step * R + r) * kValues * kSize;
    prefetch<2>(at + far_ahead(group / 2 * kSize));
  } else {
    const int64_t others = group / R * (R - 1);
    fetch(values[r] + step * kValues, kValuesAhead, left / 2 * kSize, others / 2 * kSize);
    fetch(positions[r] + step * kBytes, kPositionsAhead, left / 8, others / 8);
  }
}

// Multiplies steps [begin, end) of R rows of W with M rows of x. The side with fewer rows stays in registers. `group`
// is the columns of R rows if further rows are prefetched, else 0.
template <class L, int R, int M>
inline void skinny_steps(const typename L::D::T* const (&values)[R], const uint8_t* const (&positions)[R],
                         const typename L::X* x, int64_t x_pitch, int64_t begin, int64_t end, int64_t group, vf (&s)[R][M]) {
  constexpr bool kHoldX = W == 16 || M < R;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t v0 = (i - begin) * (L::kStep / 2), p0 = (i - begin) * (L::kStep / 8);
    for (int r = 0; group && r < R; ++r) fetch_step<L, R>(values, positions, r, (end - i) * L::kStep, i - begin, group);
    for (int part = 0; part < L::kParts; ++part) {
      const auto kept = [&](int r) { return L::kept(values[r] + v0, positions[r] + p0, part); };
      const auto dense = [&](int m) { return L::dense(x + m * x_pitch + i * L::kStep, part); };
      if constexpr (kHoldX) {
        typename L::Dense d[M];
        for (int m = 0; m < M; ++m) d[m] = dense(m);
        for (int r = 0; r < R; ++r) {
          const auto w = kept(r);
          for (int m = 0; m < M; ++m) L::add(s[r][m], w, d[m]);
        }
      } else {
        typename L::Kept w[R];
        for (int r = 0; r < R; ++r) w[r] = kept(r);
        for (int m = 0; m < M; ++m) {
          const auto d = dense(m);
          for (int r = 0; r < R; ++r) L::add(s[r][m], w[r], d);
        }
      }
    }
  }
}

// Computes sums[r][m] for R rows of W from `row` on; rows past n repeat the last.
template <class L, int R, int M>
void skinny_rows(const Plan& p, int64_t row, int64_t m0, float* sums, int64_t pitch) {
  using T = typename L::D::T;
  const int64_t groups = (p.a.k + 3) / 4, bytes = (groups + 1) / 2, whole = groups * 4 / L::kStep;
  const auto* x = reinterpret_cast<const typename L::X*>(p.scratch) + m0 * p.k_padded;
  const T* values[R];
  const uint8_t* positions[R];
  for (int r = 0; r < R; ++r) {
    const int64_t at = least(row + r, p.a.n - 1);
    values[r] = static_cast<const T*>(p.a.values) + at * groups * 2;
    positions[r] = p.a.positions + at * bytes;
  }
  vf s[R][M] = {};
  skinny_steps<L, R, M>(values, positions, x, p.k_padded, 0, whole, R > 1 && m0 == 0 ? R * groups * 4 : 0, s);
  if (whole * L::kStep < groups * 4) {
    T last[R][L::kStep / 2] = {};
    uint8_t last_positions[R][L::kStep / 8] = {};
    for (int r = 0; r < R; ++r) {
      const int64_t v0 = whole * (L::kStep / 2), p0 = whole * (L::kStep / 8);
      std::memcpy(last[r], values[r] + v0, (groups * 2 - v0) * sizeof(T));
      std::memcpy(last_positions[r], positions[r] + p0, bytes - p0);
      values[r] = last[r];
      positions[r] = last_positions[r];
    }
    skinny_steps<L, R, M>(values, positions, x, p.k_padded, whole, whole + 1, 0, s);
  }
  for (int r = 0; r < R; ++r)
    for (int m = 0; m < M; ++m) sums[(m0 + m) * pitch + r] = sum_of(s[r][m]);
}

template <class L, int M = kMaxSkinny>
void skinny_rows_of(const Plan& p, int64_t count, int64_t count_rows, int64_t row, int64_t m0, float* sums, int64_t pitch) {
  constexpr int R = L::rows_at_once(M);
  static_assert(L::kRows % R == 0);
  if constexpr (M > 1)
    if (count < M) return skinny_rows_of<L, M - 1>(p, count, count_rows, row, m0, sums, pitch);
  if constexpr (M == 1 && W == 16 && sizeof(typename L::X) == 4)
    if (p.one_stream) {  // nothing is fetched ahead: that is what the hardware does best for a single stream
      for (int r = 0; r < count_rows; ++r) skinny_rows<L, 1, 1>(p, row + r, m0, sums + r, pitch);
      return;
    }
  for (int r = 0; r < count_rows; r += R) skinny_rows<L, R, M>(p, row + r, m0, sums + r, pitch);
}

template <class L>
void run_skinny(const Plan& p, int64_t begin, int64_t end, char*) {
  constexpr int64_t kPitch = kSkinnyBlock + W;
  alignas(64) float sums[kSkinnyBlock * kPitch];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row0 = i * p.row_block, rows = least(p.row_block, p.a.n - row0);
    for (int64_t r = 0; r < rows; r += L::kRows)
      for (int64_t m = 0; m < p.a.m; m += kMaxSkinny)
        skinny_rows_of<L>(p, least(kMaxSkinny, p.a.m - m), least(L::kRows, rows - r), row0 + r, m, sums + r, kPitch);
    for (int64_t m = 0; m < p.a.m; ++m) finish_row<typename L::D>(p.a, sums + m * kPitch, m, row0, rows);
  }
}

// Whether x is stored as it comes.
template <class L>
constexpr bool stored_in_order() {
  for (int k = 0; k < L::kStep; ++k)
    if (L::place(k) != k) return false;
  return __is_same(typename L::X, typename L::D::T);
}

template <class L>
void prepare_skinny(const Plan& p, int64_t begin, int64_t end) {
  for (int64_t m = begin; m < end; ++m) {
    const auto* from = static_cast<const typename L::D::T*>(p.a.x) + m * p.a.x_stride;
    auto* to = reinterpret_cast<typename L::X*>(p.scratch) + m * p.k_padded;
    std::memset(to + p.k_padded - L::kStep, 0, L::kStep * sizeof(*to));
    if constexpr (stored_in_order<L>()) std::memcpy(to, from, p.a.k * sizeof(*to));
    else
      for (int64_t k = 0; k < p.a.k; ++k)
        to[k / L::kStep * L::kStep + L::place(static_cast<int>(k % L::kStep))] = L::convert(from + k);
  }
}

// Returns the rows of W in a task, at most `limit`, so that all threads get the same number of tasks.
inline int64_t balanced_rows(int64_t n, int threads, int64_t multiple, int64_t limit) {
  const int64_t each = (n + threads - 1) / threads, tasks = most((each + limit - 1) / limit, 1);
  return most(multiple, round_up((each + tasks - 1) / tasks, multiple));
}

template <class L>
void plan_skinny(const Linear& a, int threads, Plan& p) {
  p.a = a;
  p.k_padded = round_up(most(a.k, 1), L::kStep);
  p.scratch_bytes = a.m * p.k_padded * static_cast<int64_t>(sizeof(typename L::X));
  constexpr int kRows = L::kRows;
  p.row_block = balanced_rows(a.n, threads, kRows, kSkinnyBlock / kRows * kRows);
  p.local_bytes = 0;
  p.prepare_tasks = a.m;
  p.run_tasks = (a.n + p.row_block - 1) / p.row_block;
  p.prepare = prepare_skinny<L>;
  p.run = run_skinny<L>;
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
