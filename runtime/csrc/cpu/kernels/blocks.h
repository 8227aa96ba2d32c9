// Weights that keep all but two of each block of B columns along K, B = 6 or 8: pruning, packing, unpacking.
//
// A block's code is the rank of its pair of dropped columns (i, j), i < j, in lexicographic order: 4 bits for the 15
// pairs of six, 5 for the 28 of eight. The codes of a row follow each other without gaps, low bits first; its last
// byte is filled up with zeros.
#pragma once

#include "layout.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

template <int B>
struct Blocks {
  static_assert(B == 6 || B == 8);
  static constexpr int kBlock = B, kKeep = B - 2, kBits = B == 6 ? 4 : 5, kCodes = B * (B - 1) / 2;
  static constexpr int kStep = 8;          // blocks, whose codes are whole bytes
  static constexpr int kStepBytes = kBits;  // of the codes of a step
  static constexpr int64_t blocks(int64_t k) { return (k + B - 1) / B; }
  static constexpr int64_t code_bytes(int64_t blocks) { return (blocks * kBits + 7) / 8; }
  static constexpr int code(int i, int j) { return i * (2 * B - i - 1) / 2 + j - i - 1; }

  struct Tables {
    uint8_t dropped[32][2] = {};
    uint8_t kept[32] = {};                   // a bit for each column
    alignas(32) int32_t lanes[32][8] = {};   // the kept value of each column; kKeep, which must hold a zero, elsewhere
    alignas(16) uint8_t bytes[32][16] = {};  // the same for values of two bytes; 0x80 makes a zero
    alignas(32) uint8_t highs[32][32] = {};  // the same into the upper halves of lanes, where a bf16 is an fp32

    constexpr Tables() {
      for (int c = 0; c < 32; ++c) {
        int first = 0, second = 0;  // codes that no block has keep nothing
        for (int i = 0; i < B; ++i)
          for (int j = i + 1; j < B; ++j)
            if (code(i, j) == c) first = i, second = j;
        dropped[c][0] = static_cast<uint8_t>(first);
        dropped[c][1] = static_cast<uint8_t>(second);
        int value = 0;
        for (int column = 0; column < 8; ++column) {
          const bool keep = second && column < B && column != first && column != second;
          kept[c] = static_cast<uint8_t>(kept[c] | keep << column);
          lanes[c][column] = keep ? value : kKeep;
          for (int b = 0; b < 2; ++b) {
            const auto from = static_cast<uint8_t>(keep ? 2 * value + b : 0x80);
            bytes[c][2 * column + b] = from;
            highs[c][4 * column + b] = 0x80;
            highs[c][4 * column + 2 + b] = from;
          }
          value += keep;
        }
      }
    }
  };
  static constexpr Tables tables{};

  // Returns the code of block `b` of a row.
  static uint32_t code_at(const uint8_t* codes, int64_t b) {
    const int64_t bit = b * kBits;
    uint32_t word = codes[bit / 8];
    if (bit % 8 + kBits > 8) word |= static_cast<uint32_t>(codes[bit / 8 + 1]) << 8;
    return word >> bit % 8 & ((1u << kBits) - 1);
  }

  // Writes the code of block `b` to a row whose codes are zero from there on.
  static void put_code(uint8_t* codes, int64_t b, uint32_t code) {
    const int64_t bit = b * kBits;
    const uint32_t word = code << bit % 8;
    codes[bit / 8] = static_cast<uint8_t>(codes[bit / 8] | word);
    if (word >> 8) codes[bit / 8 + 1] = static_cast<uint8_t>(codes[bit / 8 + 1] | word >> 8);
  }
};

// Returns the code of the block that drops the two smallest magnitudes; of equal ones the later.
template <int B, class T>
inline uint32_t choose_dropped(const T* w) {
  using U = typename Key<T>::type;
  U key[B];
  for (int i = 0; i < B; ++i)
    key[i] = static_cast<U>(w[i] & static_cast<T>(~kSign<T>)) << 3 | static_cast<U>(B - 1 - i);
  U least_key = key[0], second = ~U{0};
  for (int i = 1; i < B; ++i) {
    const U higher = key[i] > least_key ? key[i] : least_key;
    second = higher < second ? higher : second;
    least_key = key[i] < least_key ? key[i] : least_key;
  }
  const int a = B - 1 - static_cast<int>(least_key & 7), b = B - 1 - static_cast<int>(second & 7);
  return static_cast<uint32_t>(a < b ? Blocks<B>::code(a, b) : Blocks<B>::code(b, a));
}

// Loads the block at column `c`; past the end of the row it is padded with zeros, which are dropped first.
template <int B, class T>
inline const T* block_at(const T* row, int64_t k, int64_t c, T* edge) {
  if (c + B <= k) return row + c;
  for (int i = 0; i < B; ++i) edge[i] = c + i < k ? row[c + i] : T{0};
  return edge;
}

template <int B, class T>
void prune_blocks(const Weight& w, void* out, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const T* from = static_cast<const T*>(w.data) + r * w.k;
    T* to = static_cast<T*>(out) + r * w.k;
    for (int64_t c = 0; c < w.k; c += B) {
      T edge[B];
      const uint8_t* dropped = Blocks<B>::tables.dropped[choose_dropped<B>(block_at<B>(from, w.k, c, edge))];
      for (int i = 0; i < least(B, w.k - c); ++i) to[c + i] = i == dropped[0] || i == dropped[1] ? T{0} : from[c + i];
    }
  }
}

template <int B, class T>
void pack_blocks(const Weight& w, void* values, uint8_t* codes, int64_t begin, int64_t end) {
  using P = Blocks<B>;
  const int64_t blocks = P::blocks(w.k), bytes = P::code_bytes(blocks);
  for (int64_t r = begin; r < end; ++r) {
    const T* from = static_cast<const T*>(w.data) + r * w.k;
    T* v = static_cast<T*>(values) + r * blocks * P::kKeep;
    uint8_t* row_codes = codes + r * bytes;
    std::memset(row_codes, 0, bytes);
    for (int64_t b = 0; b < blocks; ++b) {
      T edge[B];
      const T* block = block_at<B>(from, w.k, b * B, edge);
      const uint32_t code = choose_dropped<B>(block);
      P::put_code(row_codes, b, code);
      for (int i = 0; i < B; ++i)
        if (P::tables.kept[code] >> i & 1) *v++ = is_zero(block[i]) ? T{0} : block[i];
    }
  }
}

// Expands the values of a block to its columns, 8 with zeros after them; reads 8 values.
#if defined(__AVX2__)
template <int B>
inline __m128i expand_bits(const uint16_t* values, uint32_t code) {
  const auto control = *reinterpret_cast<const __m128i*>(Blocks<B>::tables.bytes[code]);
  return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)), control);
}
template <int B>
inline __m256i expand_bits(const uint32_t* values, uint32_t code) {
  const auto lanes = *reinterpret_cast<const __m256i*>(Blocks<B>::tables.lanes[code]);
  const __m256i kept = _mm256_blend_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)),
                                          _mm256_setzero_si256(), B == 8 ? 0xc0 : 0xf0);
  return _mm256_permutevar8x32_epi32(kept, lanes);
}
template <int B, class T>
inline void expand_block(const T* values, uint32_t code, T* to) {
  const auto columns = expand_bits<B>(values, code);
  std::memcpy(to, &columns, sizeof(columns));
}
#else
template <int B, class T>
inline void expand_block(const T* values, uint32_t code, T* to) {
  for (int i = 0; i < 8; ++i) to[i] = Blocks<B>::tables.kept[code] >> i & 1 ? *values++ : T{0};
}
#endif

template <int B, class T>
void unpack_blocks(const void* values, const uint8_t* codes, const Weight& w, void* dst, int64_t begin, int64_t end) {
  using P = Blocks<B>;
  const int64_t blocks = P::blocks(w.k), bytes = P::code_bytes(blocks);
  for (int64_t r = begin; r < end; ++r) {
    const T* v = static_cast<const T*>(values) + r * blocks * P::kKeep;
    const uint8_t* row_codes = codes + r * bytes;
    T* to = static_cast<T*>(dst) + (r - begin) * w.k;
    for (int64_t b = 0; b < blocks; ++b, v += P::kKeep) {
      const uint32_t code = P::code_at(row_codes, b);
      if (b + 2 < blocks) {  // what is read and written too far is of the next block
        expand_block<B>(v, code, to + b * B);
        continue;
      }
      T last[8] = {}, columns[8];
      std::memcpy(last, v, P::kKeep * sizeof(T));
      expand_block<B>(last, code, columns);
      std::memcpy(to + b * B, columns, least(B, w.k - b * B) * sizeof(T));
    }
  }
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
