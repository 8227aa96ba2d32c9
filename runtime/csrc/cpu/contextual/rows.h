// Streaming of a weight's rows: loading them as vectors of fp32, and prefetching.
#pragma once

#include "../kernels/vec.h"
#include "call.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int64_t kAhead = 2048;    // bytes that are prefetched: the hardware's prefetcher stops at every page
constexpr int64_t kColumns = 1024;  // columns of x that are used for all rows while they are in the first-level cache

struct I8 {
  using T = int8_t;
  static float get(const T* p) { return *p; }
  static vf load(const T* p) {
#if defined(__AVX512F__)
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return __builtin_convertvector((vi)_mm512_maskz_cvtepi8_epi32(0xffff, bytes), vf);
#elif defined(__AVX2__)
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return __builtin_convertvector((vi)_mm256_cvtepi8_epi32(bytes), vf);
#else
    vf v;
    for (int i = 0; i < W; ++i) v[i] = p[i];
    return v;
#endif
  }
};

// Calls f with the storage type of a weight.
template <class F>
inline auto with_stored(Stored stored, const F& f) {
  switch (stored) {
    case Stored::bf16: return f(BF16{});
    case Stored::f16: return f(F16{});
    case Stored::i8: return f(I8{});
    default: return f(F32{});
  }
}

// Loads `count` < W elements followed by zeros; nothing past them is read.
template <class S>
inline vf load_part(const typename S::T* p, int64_t count) {
  typename S::T edge[W] = {};
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << count) - 1);
  if constexpr (sizeof(edge[0]) == 4) _mm512_storeu_ps(edge, _mm512_maskz_loadu_ps(mask, p));
  else if constexpr (sizeof(edge[0]) == 2)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(edge), _mm256_maskz_loadu_epi16(mask, p));
  else _mm_storeu_si128(reinterpret_cast<__m128i*>(edge), _mm_maskz_loadu_epi8(mask, p));
#else
  std::memcpy(edge, p, count * sizeof(edge[0]));
#endif
  return S::load(edge);
}

// R rows of equal length, and the R rows that are read next.
template <class S, int R>
struct Streams {
  using T = typename S::T;
  const T* row[R];
  const T* next[R];
  int64_t columns;
};

// What is fetched ahead while rows stream by: nothing, the rows themselves and then the next ones, or the same columns of
// the next ones, into the second-level cache.
enum Fetch { fetch_none, fetch_along, fetch_next };

// Calls step(k, w) for columns [begin, end) of the rows, W at a time: w[r] are those of row r, zeros past the last.
// `begin` is a multiple of a cache line.
template <Fetch kFetch, class S, int R, class Step>
inline void walk(const Streams<S, R>& s, int64_t begin, int64_t end, const Step& step) {
  constexpr int64_t kLine = 64 / sizeof(typename S::T), kDistance = kAhead / sizeof(typename S::T);
  const int64_t whole = begin + (end - begin) / kLine * kLine, turn = most(0, s.columns - kDistance) / kLine * kLine;
  const typename S::T* row[R];  // a local copy, so that no store can alias it
  for (int r = 0; r < R; ++r) row[r] = s.row[r];
  int64_t k = begin;
  for (int part = 0; part < 2; ++part) {  // prefetches the rest of the row, then the next row
    const int64_t to = part ? whole : least(whole, turn), shift = part ? -turn : kDistance;
    const typename S::T* fetched[R];
    for (int r = 0; r < R; ++r) fetched[r] = kFetch == fetch_next ? s.next[r] : (part ? s.next[r] : row[r]) + shift;
    for (; k < to; k += kLine) {
      if constexpr (kFetch != fetch_none)
        for (int r = 0; r < R; ++r) prefetch<kFetch == fetch_next ? 2 : 1>(fetched[r] + k);
      for (int64_t v = k; v < k + kLine; v += W) {
        vf w[R];
        for (int r = 0; r < R; ++r) w[r] = S::load(row[r] + v);
        step(v, w);
      }
    }
  }
  for (; k < end; k += W) {
    vf w[R];
    for (int r = 0; r < R; ++r)
      w[r] = end - k < W ? load_part<S>(row[r] + k, end - k) : S::load(row[r] + k);
    step(k, w);
  }
}

constexpr int kStreams = 4;              // rows of a weight that are read at once
constexpr int kMany = W == 16 ? 8 : 4;  // the same for so few rows of x that the call is bound by memory

// Returns the rows of x that fit the registers beside R rows of a weight.
template <int R>
constexpr int kTogether = W == 16 && R < 8 ? 4 : 2;

// Calls f(first row, Int<rows>, Int<whether to prefetch>, begin, end) so that each part of the streams is prefetched
// once, and multiplied with all rows of x while it is in the cache.
template <int R, class F>
inline void by_blocks(int64_t rows, int64_t columns, const F& f) {
  const int64_t block = rows > kTogether<R> ? kColumns : columns;
  for (int64_t k = 0; k < columns; k += block)
    by_rows<kTogether<R>>(0, rows, [&](int64_t m, auto n) {
      if (m == 0) f(m, n, Int<1>{}, k, least(k + block, columns));
      else f(m, n, Int<0>{}, k, least(k + block, columns));
    });
}

// dots[r][m] = row r · x[m].
template <Fetch kFetch = fetch_along, class S, int R>
inline void dot(const Streams<S, R>& s, const contextual::Wide& x, float (*dots)[contextual::kPanel]) {
  std::memset(dots, 0, R * sizeof dots[0]);
  by_blocks<R>(x.count, s.columns, [&](int64_t m0, auto rows, auto fetch, int64_t begin, int64_t end) {
    constexpr int M = decltype(rows)::value;
    const float* from = x.data + m0 * x.pitch;
    vf sums[R][M] = {};
    walk<decltype(fetch)::value ? kFetch : fetch_none>(s, begin, end, [&](int64_t k, const vf(&w)[R]) __attribute__((always_inline)) {
      for (int m = 0; m < M; ++m) {
        const vf v = load(from + m * x.pitch + k);
        for (int r = 0; r < R; ++r) sums[r][m] += w[r] * v;
      }
    });
    for (int r = 0; r < R; ++r)
      for (int m = 0; m < M; ++m) dots[r][m0 + m] += sum_of(sums[r][m]);
  });
}

// y[m] += factors[r][m] · row r, over all r.
template <Fetch kFetch = fetch_along, class S, int R>
inline void spread(const Streams<S, R>& s, const float (*factors)[contextual::kPanel], const contextual::Wide& y) {
  by_blocks<R>(y.count, s.columns, [&](int64_t m0, auto rows, auto fetch, int64_t begin, int64_t end) {
    constexpr int M = decltype(rows)::value;
    float* to = y.data + m0 * y.pitch;
    vf f[R][M];
    for (int r = 0; r < R; ++r)
      for (int m = 0; m < M; ++m) f[r][m] = splat(factors[r][m0 + m]);
    walk<decltype(fetch)::value ? kFetch : fetch_none>(s, begin, end, [&](int64_t k, const vf(&w)[R]) __attribute__((always_inline)) {
      for (int m = 0; m < M; ++m) {
        vf v = load(to + m * y.pitch + k);
        for (int r = 0; r < R; ++r) v += w[r] * f[r][m];
        store(to + m * y.pitch + k, v);
      }
    });
  });
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
