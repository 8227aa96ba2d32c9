// The product for one row of x with 16-bit weights on AVX2: x is gathered as for fp32, which takes half the
// multiplications and a third of the loads of spreading W. With more rows of x, spreading serves them all at once.
#pragma once

#include "skinny.h"

#if defined(__AVX2__) && !defined(__AVX512F__)
namespace sparseflow::cpu::SPARSEFLOW_ISA {

template <class D_>
struct Gather : Lanes<D_> {
  using Kept = typename Lanes<D_>::Kept;
  static constexpr bool kFar = true;
  static constexpr int kFew = 1;
  // Unpacking bf16 works within each half of a register: part 0 has kept values 0 to 3 and 8 to 11 of a step, part 1
  // the others.
  static constexpr bool kUnpacks = __is_same(D_, BF16);
  static constexpr vu kShift[2] = {{0, 2, 4, 6, 16, 18, 20, 22}, {8, 10, 12, 14, 24, 26, 28, 30}};

  static constexpr int place(int k) {
    if constexpr (!kUnpacks) return Lanes<D_>::place(k);
    const int group = k / 4;
    return group / 2 % 2 * 16 + group % 2 * 8 + group / 4 * 4 + k % 4;
  }

  static Kept kept(const uint16_t* values, const uint8_t* positions, int part) {
    if constexpr (!kUnpacks) {
      return Lanes<D_>::kept(values, positions, part);
    } else {
      uint32_t word;
      std::memcpy(&word, positions, 4);
      const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)), none = _mm256_setzero_si256();
      // The values become the upper halves of fp32.
      const __m256i wide = part == 0 ? _mm256_unpacklo_epi16(none, all) : _mm256_unpackhi_epi16(none, all);
      return {(vf)wide, (vu{} + word) >> kShift[part]};
    }
  }
};

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
#endif
