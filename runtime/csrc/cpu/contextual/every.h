// Every input of several rows of x, such as a prompt's, over a weight that is stored K outermost. Its rows stream by once,
// some at a time, and meet all of x's in strips whose sums stay in registers. Sums are as those of `column`.
#pragma once

#include "column.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int kDeep = 16;                 // rows of the weight that stream by together
constexpr int kAtOnce = W == 16 ? 8 : 4;  // rows of x that meet a strip of them together
constexpr int kAbreast = 3;               // vectors of a strip: with these all registers are in use

// Rows of a weight, those that follow, and what they are multiplied by for each row of x.
template <class S>
struct Deep {
  using T = typename S::T;
  const T *row[kDeep], *next[kDeep];
  float factors[kDeep][kPanel];
  int count;

  Deep(const Matrix& w, const Wide& x, int64_t first) : count(static_cast<int>(least(kDeep, w.rows - first))) {
    for (int d = 0; d < count; ++d) {
      row[d] = row_of<S>(w, first + d);
      next[d] = row_of<S>(w, least(first + kDeep + d, w.rows - 1));
      for (int64_t m = 0; m < x.count; ++m) factors[d][m] = x.data[m * x.pitch + first + d];
    }
  }
};

// Adds to V vectors of M rows of sums from column n on; a single vector may have but `length` columns. The first rows of
// x fetch the same strip of what follows.
template <class S, int M, int V>
inline __attribute__((always_inline)) void add_tile(const Deep<S>& deep, int64_t n, int64_t length, int64_t m0,
                                                    const Wide& sums) {
  float* to = sums.data + m0 * sums.pitch + n;
  vf sum[M][V];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) sum[m][v] = load(to + m * sums.pitch + v * W);
  for (int d = 0; d < deep.count; ++d) {
    if (m0 == 0)
      for (int64_t byte = 0; byte < V * W * static_cast<int64_t>(sizeof(typename S::T)); byte += 64)
        prefetch<2>(reinterpret_cast<const char*>(deep.next[d] + n) + byte);
    vf w[V];
    for (int v = 0; v < V; ++v)
      w[v] = length == W ? S::load(deep.row[d] + n + v * W) : load_part<S>(deep.row[d] + n, length);
    for (int m = 0; m < M; ++m) {
      const vf factor = splat(deep.factors[d][m0 + m]);
      for (int v = 0; v < V; ++v) sum[m][v] += w[v] * factor;
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < V; ++v) store(to + m * sums.pitch + v * W, sum[m][v]);
}

template <class S, int V>
inline void add_strip(const Deep<S>& deep, int64_t n, int64_t length, const Wide& sums) {
  by_rows<kAtOnce>(0, sums.count, [&](int64_t m, auto rows) __attribute__((always_inline)) {
    add_tile<S, decltype(rows)::value, V>(deep, n, length, m, sums);
  });
}

inline void every(const Matrix& w, const Wide& x, const Wide& sums, int64_t begin, int64_t end) {
  for (int64_t m = 0; m < sums.count; ++m)
    std::memset(sums.data + m * sums.pitch + begin, 0, (end - begin) * sizeof(float));
  with_stored(w.stored, [&](auto s) {
    using S = decltype(s);
    for (int64_t k = 0; k < w.rows; k += kDeep) {
      const Deep<S> deep(w, x, k);
      int64_t n = begin;
      for (; n + kAbreast * W <= end; n += kAbreast * W) add_strip<S, kAbreast>(deep, n, W, sums);
      for (; n < end; n += W) add_strip<S, 1>(deep, n, least(W, end - n), sums);
    }
  });
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
