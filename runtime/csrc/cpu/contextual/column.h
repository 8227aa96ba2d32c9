// A linear layer whose weight is stored K outermost: the rows of the inputs that are kept stream by, and each adds its
// multiple to the sums. Every sum is over ascending k, one input after the other, so that it depends neither on the other
// rows of x nor on the threads.
#pragma once

#include "mlp.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int64_t kSpan = 16384;  // sums that stay in the second-level cache while all rows pass

constexpr int64_t kShort = 8192;  // bytes of a row that ends before the hardware follows it

// Sums [begin, end) of each row of x, over `count` inputs, R at once. Either nothing is fetched ahead, because so many long
// streams keep the hardware's own prefetch busy: an Intel Xeon was measured to be 1.2 to 1.6 times slower with instructions
// between them. Or the rows of the inputs after the next are: on an AMD EPYC (Zen 4), where rows of a few KB end before the
// hardware follows them, that took SmolLM2's layers from 9.3 to 5.7 ms at 40 % left out.
template <class S, int R>
inline void add_inputs(const Matrix& w, const Wide& x, const int32_t* kept, int64_t count, const Wide& sums, int64_t begin,
                       int64_t end) {
  const Wide part = {sums.data + begin, sums.count, sums.pitch};
  const bool fetch = w.one_stream && (end - begin) * static_cast<int64_t>(sizeof(typename S::T)) <= kShort;
  float factors[R][kPanel];
  const auto group = [&](int64_t first, auto rows) {
    constexpr int n = decltype(rows)::value;
    const typename S::T *row[n], *later[n];
    for (int r = 0; r < n; ++r) {
      const int64_t k = kept[first + r];
      row[r] = row_of<S>(w, k) + begin;
      later[r] = row_of<S>(w, kept[least(first + 2 * R + r, count - 1)]) + begin;
      for (int64_t m = 0; m < x.count; ++m) factors[r][m] = x.data[m * x.pitch + k];
    }
    if (fetch) spread<fetch_next>(streams<S, n>(row, later, end - begin), factors, part);
    else spread<fetch_none>(streams<S, n>(row, row, end - begin), factors, part);
  };
  int64_t i = 0;
  if (fetch)  // what no group before fetches
    for (int64_t first = R; first < least(2 * R, count); ++first)
      for (int64_t n = begin; n < end; n += 64 / static_cast<int64_t>(sizeof(typename S::T)))
        prefetch<2>(row_of<S>(w, kept[first]) + n);
  const auto groups = [&](auto rows) {
    for (; i + decltype(rows)::value <= count; i += decltype(rows)::value) group(i, rows);
  };
  groups(Int<R>{});
  groups(Int<R / 2>{});  // few streams at once are slow
  groups(Int<1>{});
}

constexpr int kInputs = 8;

inline void column(const Matrix& w, const Wide& x, const int32_t* kept, int64_t count, const Wide& sums, int64_t begin,
                   int64_t end) {
  with_stored(w.stored, [&](auto s) {
    using S = decltype(s);
    for (int64_t from = begin; from < end; from += kSpan) {
      const int64_t to = least(end, from + kSpan);
      for (int64_t m = 0; m < sums.count; ++m)
        std::memset(sums.data + m * sums.pitch + from, 0, (to - from) * sizeof(float));
      if (x.count <= kTogether<kInputs>) add_inputs<S, kInputs>(w, x, kept, count, sums, from, to);
      else add_inputs<S, kStreams>(w, x, kept, count, sums, from, to);
    }
  });
}

// Keeps of row m what isn't below the threshold, and a NaN; sets the rest to zero. Returns how many inputs any row keeps.
inline int64_t keep(const Wide& x, int64_t columns, float threshold, int32_t* kept) {
  int64_t count = 0, k = 0;
#if defined(__AVX512F__)
  if (x.count == 1)  // whole vectors; the list has room for one more
    for (; k + W <= columns; k += W) {
      const __m512 v = (__m512)load(x.data + k);
      const __mmask16 small = _mm512_cmp_ps_mask(_mm512_abs_ps(v), _mm512_set1_ps(threshold), _CMP_LT_OQ);
      store(x.data + k, (vf)_mm512_maskz_mov_ps(static_cast<__mmask16>(~small), v));
      const __m512i places = _mm512_add_epi32((__m512i)kLane, _mm512_set1_epi32(static_cast<int32_t>(k)));
      _mm512_storeu_si512(kept + count, _mm512_maskz_compress_epi32(static_cast<__mmask16>(~small), places));
      count += __builtin_popcount(static_cast<uint16_t>(~small));
    }
#endif
  for (; k < columns; ++k) {
    bool any = false;
    for (int64_t m = 0; m < x.count; ++m) {
      float& v = x.data[m * x.pitch + k];
      if ((v < 0 ? -v : v) < threshold) v = 0;
      else any = true;
    }
    kept[count] = static_cast<int32_t>(k);
    count += any;
  }
  return count;
}

inline void widen_stored(const Matrix& w, int64_t row, int64_t begin, int64_t end, float* to) {
  with_stored(w.stored, [&](auto s) {
    using S = decltype(s);
    const typename S::T* from = row_of<S>(w, row);
    int64_t n = begin;
    for (; n + W <= end; n += W, to += W) store(to, S::load(from + n));
    for (; n < end; ++n, ++to) *to = S::get(from + n);
  });
}

// y[begin, end) = sums · scale + bias + residual, rounded once.
inline void finish_columns(const float* sums, const contextual::Ending& e, int64_t begin, int64_t end, void* y) {
  with_type(e.dtype, [&](auto d) {
    using D = decltype(d);
    using T = typename D::T;
    const auto at = [&](const void* p, int64_t n, int64_t length) {
      const T* from = static_cast<const T*>(p) + n;
      return length == W ? D::load(from) : load_part<D>(from, length);
    };
    for (int64_t n = begin; n < end; n += W) {
      const int64_t length = least(W, end - n);
      vf v = load(sums + n);
      if (e.scale) v *= length == W ? load(e.scale + n) : load_part<F32>(e.scale + n, length);
      if (e.bias) v += at(e.bias, n, length);
      if (e.residual) v += at(e.residual, n, length);
      T edge[W];
      D::store(edge, v);
      std::memcpy(static_cast<T*>(y) + n, edge, length * sizeof(T));
    }
  });
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
