// Vectors of fp32 in the width of the instruction set this is compiled for, and its 16-bit storage types.
// No include guard against a second instruction set: one translation unit, one set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../kernels.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W)));
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));
typedef float vf_any __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t vu_any __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint16_t vh_any __attribute__((vector_size(2 * W), aligned(2), may_alias));

// 0, 1, 2, … as a literal, because a vector that a loop fills is rebuilt at each use.
#if defined(__AVX512F__)
constexpr vu kLane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(__AVX2__)
constexpr vu kLane = {0, 1, 2, 3, 4, 5, 6, 7};
#else
constexpr vu kLane = {0, 1, 2, 3};
#endif

inline vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
inline void store(float* p, vf v) { *reinterpret_cast<vf_any*>(p) = v; }
inline vf splat(float v) { return v - vf{}; }
inline vf bits_to_float(vu v) { return reinterpret_cast<vf>(v); }
inline vu float_to_bits(vf v) { return reinterpret_cast<vu>(v); }

inline float bits_to_float(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
inline uint32_t float_to_bits(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }

constexpr int64_t round_up(int64_t v, int64_t to) { return (v + to - 1) / to * to; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Prefetches a line into the first-level cache, or the second. GCC 12 takes a function that does nothing but
// __builtin_prefetch for one without effects and drops its calls, so this is an instruction that it doesn't know.
template <int kLevel = 1>
inline __attribute__((always_inline)) void prefetch(const void* p) {
#if defined(__x86_64__)
  if constexpr (kLevel == 1) asm volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
  else asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
#else
  __builtin_prefetch(p, 0, kLevel == 1 ? 3 : 2);
#endif
}

inline float sum_of(vf v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float s = 0;
  for (int i = 0; i < W; ++i) s += v[i];
  return s;
#endif
}

inline vu widen(const uint16_t* p) {
#if defined(__AVX512F__)
  return (vu)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (vu)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  return __builtin_convertvector(*reinterpret_cast<const vh_any*>(p), vu);
#endif
}

// A storage type: how it becomes fp32 and back, one element or one vector at a time.
struct F32 {
  using T = float;
  static float get(const T* p) { return *p; }
  static void put(T* p, float v) { *p = v; }
  static vf load(const T* p) { return SPARSEFLOW_ISA::load(p); }
  static void store(T* p, vf v) { SPARSEFLOW_ISA::store(p, v); }
};

struct BF16 {
  using T = uint16_t;
  static float get(const T* p) { return bits_to_float(static_cast<uint32_t>(*p) << 16); }
  static vf load(const T* p) { return bits_to_float(widen(p) << 16); }
  // Rounds to nearest even; NaN stays NaN whatever its payload.
  static void put(T* p, float v) {
    const uint32_t u = float_to_bits(v);
    *p = v != v ? 0x7fc0 : static_cast<T>((u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  static void store(T* p, vf v) {
    const vu u = float_to_bits(v);
    const vu rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    const vu nan = vu{} + 0x7fc0;
    *reinterpret_cast<vh_any*>(p) = __builtin_convertvector(v != v ? nan : rounded, vh);
  }
};

struct F16 {
  using T = uint16_t;
#if defined(__AVX2__)
  static float get(const T* p) { return _cvtsh_ss(*p); }
  static void put(T* p, float v) { *p = static_cast<T>(_cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT)); }
#else
  static float get(const T* p) {
    const uint32_t sign = static_cast<uint32_t>(*p & 0x8000) << 16, rest = *p & 0x7fff;
    if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    // Scaling by a power of two is exact, and also right for subnormals.
    return bits_to_float(sign | float_to_bits(bits_to_float(rest << 13) * 0x1p112f));
  }
  static void put(T* p, float v) {
    const uint32_t u = float_to_bits(v), sign = u >> 16 & 0x8000, rest = u & 0x7fffffff;
    if (rest > 0x7f800000) *p = 0x7e00 | sign;
    else if (rest >= 0x477ff000) *p = static_cast<T>(sign | 0x7c00);  // rounds to 65536 or more
    else if (rest < 0x38800000)  // subnormal: the addition aligns and rounds to nearest even
      *p = static_cast<T>(sign | (float_to_bits(bits_to_float(rest) + 0.5f) - 0x3f000000));
    else *p = static_cast<T>(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
  }
#endif
#if defined(__AVX512F__)
  static vf load(const T* p) {
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store(T* p, vf v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__AVX2__)
  static vf load(const T* p) {
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store(T* p, vf v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  static vf load(const T* p) {
    vf v;
    for (int i = 0; i < W; ++i) v[i] = get(p + i);
    return v;
  }
  static void store(T* p, vf v) {
    for (int i = 0; i < W; ++i) put(p + i, v[i]);
  }
#endif
};

// Calls f with the storage type of `dtype`.
template <class F>
inline auto with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::bf16: return f(BF16{});
    case DType::f16: return f(F16{});
    default: return f(F32{});
  }
}

template <int N>
struct Int {
  static constexpr int value = N;
};

// Calls f(first, Int<n>) for `count` rows, n at a time.
template <int N, class F>
inline void by_rows(int64_t first, int64_t count, const F& f) {
  for (; count - first >= N; first += N) f(first, Int<N>{});
  if constexpr (N > 1) by_rows<N - 1>(first, count, f);
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
