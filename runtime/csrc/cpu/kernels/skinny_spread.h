// The product for few rows of x with 16-bit weights on AVX2. One byte shuffle spreads the kept values of eight columns
// to eight fp32 lanes, with zeros for dropped values; a table has its control for each byte of positions. This takes
// twice the multiplications of gathering x, but x is read in its own order, and all rows of x share the spreading. A
// step is 64 of k: 32 kept values and 8 bytes of positions.
#pragma once

#include "vec.h"

#if defined(__AVX2__) && !defined(__AVX512F__)
namespace sparseflow::cpu::SPARSEFLOW_ISA {

// The byte shuffle from four kept 16-bit values to eight columns of elements of `Size` bytes. The values become the
// upper bytes (a bf16 is the upper half of an fp32); 0x80 makes a zero.
template <int Size>
struct Controls {
  alignas(32) uint8_t of[256][8 * Size];  // [byte of positions]

  constexpr Controls() : of() {
    for (int byte = 0; byte < 256; ++byte) {
      for (uint8_t& b : of[byte]) b = 0x80;
      for (int v = 0; v < 4; ++v) {
        const int end = (v / 2 * 4 + (byte >> v * 2 & 3) + 1) * Size;
        of[byte][end - 2] = static_cast<uint8_t>(v * 2);
        of[byte][end - 1] = static_cast<uint8_t>(v * 2 + 1);
      }
    }
  }
};

template <int Size>
constexpr Controls<Size> kControls{};

template <class D_>
struct Spread {
  using D = D_;
  using X = float;
  using Kept = vf;
  using Dense = vf;
  static constexpr int kStep = 64;
  static constexpr int kParts = kStep / W;
  static constexpr bool kFar = true;
  static constexpr int kFew = 12;
  static constexpr int kRows = 12;
  static constexpr int rows_at_once(int m) { return m == 4 ? 3 : 4; }
  static constexpr int kSize = __is_same(D, BF16) ? 4 : 2;  // fp16 is spread before it is converted

  static constexpr int place(int k) { return k; }
  static float convert(const uint16_t* p) { return D::get(p); }

  static vf kept(const uint16_t* values, const uint8_t* positions, int part) {
    const __m128i four = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values + part * 4));
    const uint8_t* control = kControls<kSize>.of[positions[part]];
    if constexpr (kSize == 4)
      return (vf)_mm256_shuffle_epi8(_mm256_broadcastq_epi64(four), *reinterpret_cast<const __m256i*>(control));
    else
      return (vf)_mm256_cvtph_ps(_mm_shuffle_epi8(four, *reinterpret_cast<const __m128i*>(control)));
  }
  static vf dense(const float* x, int part) { return load(x + part * W); }
  static void add(vf& s, vf w, vf x) { s += w * x; }
};

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
#endif
