// Few rows of bf16 x with the dot-product instruction. A step is 64 k: 32 kept values, 8 bytes of positions.
#pragma once

#include "vec.h"

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
namespace sparseflow::cpu::SPARSEFLOW_ISA {

struct Dot {
  using D = BF16;
  using X = uint16_t;
  static constexpr int kStep = 64;
  static constexpr int kParts = 1;
  static constexpr bool kFar = true;
  static constexpr int kFew = 32;
  static constexpr int kRows = 4;
  static constexpr int rows_at_once(int) { return 4; }

  struct Kept {
    __m512i v, at;
  };
  struct Dense {
    __m512i low, high;
  };

  static constexpr int place(int k) { return k; }
  static uint16_t convert(const uint16_t* p) { return *p; }

  static Kept kept(const uint16_t* values, const uint8_t* positions, int) {
    typedef uint16_t words __attribute__((vector_size(64)));
    int64_t word;
    std::memcpy(&word, positions, 8);
    constexpr words kWord = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                             16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
    constexpr words shift = kWord * 2, base = (kWord >> 1) * 4;
    const auto each_position = (words)_mm512_multishift_epi64_epi8((__m512i)shift, _mm512_set1_epi64(word));
    return {_mm512_loadu_si512(values), (__m512i)((each_position & 3) | base)};
  }
  static Dense dense(const uint16_t* x, int) { return {_mm512_loadu_si512(x), _mm512_loadu_si512(x + 32)}; }
  static void add(vf& s, const Kept& w, const Dense& d) {
    const __m512i x = _mm512_permutex2var_epi16(d.low, w.at, d.high);
    s = (vf)_mm512_dpbf16_ps((__m512)s, (__m512bh)w.v, (__m512bh)x);
  }
};

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
#endif
