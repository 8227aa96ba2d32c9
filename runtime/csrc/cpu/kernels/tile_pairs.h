// A tile of x in bf16, [group][pair][m]. Each of the six pairs of positions that a group of four can keep has a row of
// interleaved pairs of x, so that one dot-product instruction multiplies both kept values of a group.
#pragma once

#include "transpose.h"

#if defined(__AVX512BF16__)
namespace sparseflow::cpu::SPARSEFLOW_ISA {

struct Pairs {
  using D = BF16;
  static constexpr int kStep = 64;
  static constexpr int kPerEntry = 4;
  static constexpr int kPerByte = 2;
  static constexpr int kPairs = 6;
  static constexpr int tile_bytes(int vectors) { return vectors * W * 4 * kPairs / 4; }

  static vf add(vf s, uint32_t values, const char* x) {
    const auto w = reinterpret_cast<__m512bh>(vu{} + values);
    return (vf)_mm512_dpbf16_ps((__m512)s, w, (__m512bh)_mm512_loadu_si512(x));
  }

  static void convert(const uint16_t* values, uint32_t* v) { std::memcpy(v, values, kStep); }

  // Nibbles 4, 8, 12, 9, 13, 14 are (0,1) (0,2) (0,3) (1,2) (1,3) (2,3); no other occurs, and each stays in bounds.
  static constexpr int place(int byte, int e) {
    constexpr int pair_of[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 2, 4, 5, 0};
    return e * kPairs + pair_of[byte >> 4 * e & 15];
  }

  static constexpr int kPut = 2 * W;
  static void put(const uint16_t* const (&rows)[W], int64_t k, int64_t width, char* tile) {
    vf block[W];  // two adjacent columns in each lane
    for (int i = 0; i < W; ++i) block[i] = rows[i] ? (vf)_mm512_loadu_si512(rows[i]) : vf{};
    transpose(block);
    for (int g = 0; g < W / 2; ++g) {
      const vu a = float_to_bits(block[2 * g]), b = float_to_bits(block[2 * g + 1]);
      const vu low = vu{} + 0xffff, high = ~low;
      const vu pairs[kPairs] = {a, (a & low) | b << 16, (a & low) | (b & high),
                                a >> 16 | b << 16, a >> 16 | (b & high), b};
      auto* to = reinterpret_cast<uint32_t*>(tile) + (k / 4 + g) * kPairs * width;
      for (int p = 0; p < kPairs; ++p) *reinterpret_cast<vu_any*>(to + p * width) = pairs[p];
    }
  }
};

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
#endif
