// Attention of few queries over a cache. A task is a stretch of the keys of one head: the scores of all rows that share
// the head, then their exponentials, then the sum of values. Stretches are put together in order, as online softmax
// does (Milakov and Gimelshein, 2018, arXiv 1805.02867), so that the result depends on no number of threads.
#pragma once

#include "epilogue.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr float kUnseen = -__builtin_huge_valf();
constexpr int64_t kKeysAhead = 8;
template <class D>
constexpr int64_t kLineOf = 64 / sizeof(typename D::T);  // elements of a cache line

// The keys [begin, end) of a task, and the head whose keys they are.
struct SomeKeys {
  int64_t batch, head, begin, end;
};

inline SomeKeys stretch_of(const Attention& a, int64_t task) {
  const int64_t heads = task / a.stretches, begin = a.first + task % a.stretches * kStretch;
  return {heads / a.kv_heads, heads % a.kv_heads, begin, least(begin + kStretch, a.end)};
}

// Calls f(d, load) for all vectors of a row of `width`: load(row) gives its W elements from d on, zeros past its end.
template <class D, class F>
inline void by_vectors(int64_t width, const F& f) {
  int64_t d = 0;
  for (; d + W <= width; d += W)
    f(d, [&](const typename D::T* row) __attribute__((always_inline)) { return D::load(row + d); });
  if (d == width) return;
  f(d, [&](const typename D::T* row) {
    typename D::T edge[W] = {};
    std::memcpy(edge, row + d, (width - d) * sizeof *row);
    return D::load(edge);
  });
}

template <class D>
inline const typename D::T* row_at(const void* data, int64_t offset) {
  return static_cast<const typename D::T*>(data) + offset;
}

// Widens the rows of a head to `to` [rows, width_padded], times the scale.
template <class D>
inline void scaled_queries(const Attention& a, const SomeKeys& s, float* to) {
  for (int64_t g = 0; g < a.group; ++g)
    for (int64_t i = 0; i < a.queries; ++i, to += a.width_padded) {
      const auto* from = row_at<D>(a.q, s.batch * a.q_batch + (s.head * a.group + g) * a.q_head + i * a.q_query);
      by_vectors<D>(a.width, [&](int64_t d, const auto& at) { store(to + d, at(from) * a.scale); });
    }
}

// scores[r][n + i] = q[r] · key[i] for R rows and N keys.
template <class D, int R, int N>
inline void score_keys(const Attention& a, const typename D::T* key, const float* q, float* scores) {
  vf sums[R][N] = {};
  by_vectors<D>(a.width, [&](int64_t d, const auto& at) __attribute__((always_inline)) {
    vf k[N];
    for (int i = 0; i < N; ++i) k[i] = at(key + i * a.k_key);
    for (int r = 0; r < R; ++r) {
      const vf row = load(q + r * a.width_padded + d);
      for (int i = 0; i < N; ++i) sums[r][i] += k[i] * row;
    }
  });
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < N; ++i) scores[r * kStretch + i] = sum_of(sums[r][i]);
}

// scores[r][n] = q[r] · k[begin + n] for R rows. Keys are fetched ahead, and the values that are read after them: rows
// of a cache are short, and each head has others.
template <class D, int R>
inline void scores_of(const Attention& a, const SomeKeys& s, const float* q, float* scores, bool fetch) {
  const auto* key = row_at<D>(a.k, s.batch * a.k_batch + s.head * a.k_head + s.begin * a.k_key);
  const auto* value = row_at<D>(a.v, s.batch * a.v_batch + s.head * a.v_head + s.begin * a.v_key);
  int64_t n = s.end - s.begin;
  for (; n >= 2; n -= 2, key += 2 * a.k_key, value += 2 * a.v_key, scores += 2) {
    for (int64_t i = 0; fetch && i < 2; ++i)
      for (int64_t d = 0; d < a.width; d += kLineOf<D>) {
        prefetch(key + (kKeysAhead + i) * a.k_key + d);
        prefetch<2>(value + i * a.v_key + d);
      }
    score_keys<D, R, 2>(a, key, q, scores);
  }
  if (n) score_keys<D, R, 1>(a, key, q, scores);
}

// Hides from a row the keys that its query doesn't see; returns whether there are any.
inline bool hide(const Attention& a, const SomeKeys& s, int64_t query, float* scores) {
  const int64_t last = a.position + query;
  const bool near_all = !a.positioned || (s.end <= last + 1 && (a.window == 0 || s.begin > last - a.window));
  if (near_all && !a.keep) return false;
  for (int64_t n = 0; n < s.end - s.begin; ++n) {
    const int64_t key = s.begin + n;
    const bool near = !a.positioned || (key <= last && (a.window == 0 || key > last - a.window));
    if (!near || (a.keep && !a.keep[s.batch * a.keep_batch + key])) scores[n] = kUnseen;
  }
  return true;
}

// Floats of a row's part: the sum of its values, the largest score, the sum of exponentials.
inline int64_t part_pitch(const Attention& a) { return a.width_padded + 2; }

// Replaces scores by e^(score − largest), which is 0 for a key that isn't seen; gives the largest and the sum.
inline void exponentials(float* scores, int64_t count, float& largest, float& sum) {
  const int64_t whole = round_up(count, W);
  for (int64_t n = count; n < whole; ++n) scores[n] = kUnseen;
  vf best = splat(kUnseen);
  for (int64_t n = 0; n < whole; n += W) {
    const vf v = load(scores + n);
    best = v > best ? v : best;
  }
  largest = best[0];
  for (int i = 1; i < W; ++i) largest = best[i] > largest ? best[i] : largest;
  // Where no key is seen all differences would be NaN. A NaN among the scores stays one.
  const vf from = splat(largest == kUnseen ? 0.f : largest);
  vf total = {};
  for (int64_t n = 0; n < whole; n += W) {
    const vf v = load(scores + n), e = exp(v - from), p = v == kUnseen ? vf{} : e;
    store(scores + n, p);
    total += p;
  }
  sum = sum_of(total);
}

// sums[r] = Σ p[r][n] v[begin + n] for R rows. Of keys that are hidden, values aren't looked at: they may be NaN.
template <class D, int R, bool kHidden>
inline void values_of(const Attention& a, const SomeKeys& s, const float* p, float* sums) {
  const auto* values = row_at<D>(a.v, s.batch * a.v_batch + s.head * a.v_head + s.begin * a.v_key);
  const int64_t count = s.end - s.begin;
  by_vectors<D>(a.width, [&](int64_t d, const auto& at) __attribute__((always_inline)) {
    vf to[R] = {};
    const auto* value = values;
    for (int64_t n = 0; n < count; ++n, value += a.v_key) {
      const vf v = at(value);
      for (int r = 0; r < R; ++r) {
        const float weight = p[r * kStretch + n];
        if constexpr (kHidden) to[r] += weight == 0 ? vf{} : v * weight;
        else to[r] += v * weight;
      }
    }
    for (int r = 0; r < R; ++r) store(sums + r * part_pitch(a) + d, to[r]);
  });
}

// The exponentials of a stretch's rows in `scores` [rows, kStretch], and what they weigh in `part`.
template <class D>
void attend_stretch(const Attention& a, int64_t task, float* q, float* scores) {
  const SomeKeys s = stretch_of(a, task);
  const int64_t rows = a.group * a.queries;
  float* part = a.parts + task * rows * part_pitch(a);
  scaled_queries<D>(a, s, q);
  const auto groups = [&](const auto& f) { by_rows<4>(0, rows, f); };
  groups([&](int64_t r, auto n) {
    scores_of<D, decltype(n)::value>(a, s, q + r * a.width_padded, scores + r * kStretch, r == 0);
  });
  bool hidden = false;
  for (int64_t r = 0; r < rows; ++r) {
    float* largest = part + r * part_pitch(a) + a.width_padded;
    hidden |= hide(a, s, r % a.queries, scores + r * kStretch);
    exponentials(scores + r * kStretch, s.end - s.begin, largest[0], largest[1]);
  }
  groups([&](int64_t r, auto n) {
    constexpr int R = decltype(n)::value;
    if (hidden) values_of<D, R, true>(a, s, scores + r * kStretch, part + r * part_pitch(a));
    else values_of<D, R, false>(a, s, scores + r * kStretch, part + r * part_pitch(a));
  });
}

inline int64_t attend_bytes(const Attention& a) {
  return a.group * a.queries * (a.width_padded + kStretch) * static_cast<int64_t>(sizeof(float));
}

inline void attend(const Attention& a, int64_t begin, int64_t end, char* local) {
  auto* q = reinterpret_cast<float*>(local);
  float* scores = q + a.group * a.queries * a.width_padded;
  with_type(a.dtype, [&](auto d) {
    for (int64_t task = begin; task < end; ++task) attend_stretch<decltype(d)>(a, task, q, scores);
  });
}

// Writes the rows of a head from the parts of its stretches; zeros where nothing is seen. Overwrites the first part.
template <class D>
void join_stretches(const Attention& a, int64_t head) {
  const int64_t rows = a.group * a.queries, pitch = part_pitch(a);
  for (int64_t r = 0; r < rows; ++r) {
    float* first = a.parts + (head * a.stretches * rows + r) * pitch;
    float largest = kUnseen, sum = 0;
    for (int64_t i = 0; i < a.stretches; ++i) {
      const float other = first[i * rows * pitch + a.width_padded];
      largest = other > largest ? other : largest;
    }
    for (int64_t i = 0; i < a.stretches; ++i) {
      float* part = first + i * rows * pitch;
      const float other = part[a.width_padded];
      const float factor = other == kUnseen ? 0.f : exp(splat(other - largest))[0];
      const float own = part[a.width_padded + 1];
      sum += other == kUnseen ? own : own * factor;  // of scores that are NaN alone, the sum is NaN
      for (int64_t d = 0; d < a.width; d += W) {
        const vf v = load(part + d) * factor;
        store(first + d, i == 0 ? v : load(first + d) + v);
      }
    }
    const float scale = sum == 0 ? 0.f : 1 / sum;
    auto* to = static_cast<typename D::T*>(a.out) + (head * rows + r) * a.width;
    for (int64_t d = 0; d < a.width; d += W) {
      typename D::T edge[W];
      const int64_t length = least(W, a.width - d);
      D::store(edge, load(first + d) * scale);
      std::memcpy(to + d, edge, length * sizeof *to);
    }
  }
}

inline void join(const Attention& a, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto d) {
    for (int64_t head = begin; head < end; ++head) join_stretches<decltype(d)>(a, head);
  });
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
