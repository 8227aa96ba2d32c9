// Pruning, packing and checking of weights. They read a weight as raw bits, so bf16 and fp16 share the code.
#pragma once

#include "vec.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

// Orders entries by magnitude, then by earlier position: the bits without the sign, followed by two bits of the
// position, are unique keys.
template <class T>
struct Key;
template <>
struct Key<uint16_t> { using type = uint32_t; };
template <>
struct Key<uint32_t> { using type = uint64_t; };

template <class T>
constexpr T kSign = static_cast<T>(T{1} << (sizeof(T) * 8 - 1));

template <class T>
inline bool is_zero(T v) { return static_cast<T>(v & ~kSign<T>) == 0; }

// Returns the positions of the two largest magnitudes among four as a nibble p0 | p1 << 2, p0 < p1.
template <class T>
inline uint32_t choose(const T* w) {
  using U = typename Key<T>::type;
  U key[4];
  for (int i = 0; i < 4; ++i) key[i] = static_cast<U>(w[i] & static_cast<T>(~kSign<T>)) << 2 | (3 - i);
  const auto max = [](U a, U b) { return a > b ? a : b; };
  const auto min = [](U a, U b) { return a > b ? b : a; };
  const U high0 = max(key[0], key[1]), high1 = max(key[2], key[3]);
  const U first = max(high0, high1);
  const U second = max(min(high0, high1), max(min(key[0], key[1]), min(key[2], key[3])));
  const uint32_t a = 3 - static_cast<uint32_t>(first & 3), b = 3 - static_cast<uint32_t>(second & 3);
  return a < b ? a | b << 2 : b | a << 2;
}

// Loads a group of four; past the end of the row it is padded with zeros, which lose every tie.
template <class T>
inline void group_at(const T* row, int64_t k, int64_t c, T* w) {
  for (int i = 0; i < 4; ++i) w[i] = c + i < k ? row[c + i] : T{0};
}

template <class T>
void prune_rows(const Weight& w, void* out, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const T* from = static_cast<const T*>(w.data) + r * w.k;
    T* to = static_cast<T*>(out) + r * w.k;
    for (int64_t c = 0; c < w.k; c += 4) {
      T edge[4];
      const bool whole = c + 4 <= w.k;
      if (!whole) group_at(from, w.k, c, edge);
      const uint32_t nibble = choose(whole ? from + c : edge);
      const uint32_t keep = 1u << (nibble & 3) | 1u << (nibble >> 2);
      for (int i = 0; i < least(4, w.k - c); ++i) to[c + i] = static_cast<T>(from[c + i] & -static_cast<T>(keep >> i & 1));
    }
  }
}

template <class T>
inline uint32_t pack_group(const T* w, T* values) {
  const uint32_t nibble = choose(w);
  const T a = w[nibble & 3], b = w[nibble >> 2];
  values[0] = is_zero(a) ? T{0} : a;
  values[1] = is_zero(b) ? T{0} : b;
  return nibble;
}

constexpr uint32_t kEmptyGroup = 0 | 1 << 2;  // the nibble of a group of zeros, also past the end of the row

template <class T>
void pack_rows(const Weight& w, void* values, uint8_t* positions, int64_t begin, int64_t end) {
  const int64_t groups = (w.k + 3) / 4, bytes = (groups + 1) / 2;
  for (int64_t r = begin; r < end; ++r) {
    const T* from = static_cast<const T*>(w.data) + r * w.k;
    T* v = static_cast<T*>(values) + r * groups * 2;
    uint8_t* p = positions + r * bytes;
    int64_t c = 0;
    for (; c + 8 <= w.k; c += 8) {
      const uint32_t low = pack_group(from + c, v + c / 2), high = pack_group(from + c + 4, v + c / 2 + 2);
      p[c / 8] = static_cast<uint8_t>(low | high << 4);
    }
    if (c < w.k) {
      T edge[8];
      group_at(from, w.k, c, edge);
      group_at(from, w.k, c + 4, edge + 4);
      const uint32_t low = pack_group(edge, v + c / 2);
      const uint32_t high = c + 4 < w.k ? pack_group(edge + 4, v + c / 2 + 2) : kEmptyGroup;
      p[c / 8] = static_cast<uint8_t>(low | high << 4);
    }
  }
}

#if defined(__AVX2__)
// For each nibble, the byte shuffle from two kept values to a group of four; 0x80 makes a zero.
template <int Size>
struct GroupControls {
  alignas(16) uint8_t of[16][16];

  constexpr GroupControls() : of() {
    for (int nibble = 0; nibble < 16; ++nibble)
      for (int b = 0; b < 16; ++b) {
        const int at = b / Size, value = at == (nibble & 3) ? 0 : at == nibble >> 2 ? 1 : -1;
        of[nibble][b] = static_cast<uint8_t>(value < 0 || at > 3 ? 0x80 : value * Size + b % Size);
      }
  }
};
template <int Size>
constexpr GroupControls<Size> kGroupControls{};

template <class T>
inline void unpack_group(const T* values, uint32_t nibble, T* w) {
  const auto control = *reinterpret_cast<const __m128i*>(kGroupControls<sizeof(T)>.of[nibble]);
  if constexpr (sizeof(T) == 4)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(w), _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(values)), control));
  else
    _mm_storel_epi64(reinterpret_cast<__m128i*>(w), _mm_shuffle_epi8(_mm_loadu_si32(values), control));
}
#else
template <class T>
inline void unpack_group(const T* values, uint32_t nibble, T* w) {
  for (uint32_t i = 0; i < 4; ++i) w[i] = i == (nibble & 3) ? values[0] : i == nibble >> 2 ? values[1] : T{0};
}
#endif

template <class T>
void unpack_rows(const void* values, const uint8_t* positions, const Weight& w, void* dst, int64_t begin, int64_t end) {
  const int64_t groups = (w.k + 3) / 4, bytes = (groups + 1) / 2;
  for (int64_t r = begin; r < end; ++r) {
    const T* v = static_cast<const T*>(values) + r * groups * 2;
    T* to = static_cast<T*>(dst) + (r - begin) * w.k;
    for (int64_t g = 0; g < groups; ++g) {
      const uint32_t nibble = positions[r * bytes + g / 2] >> (g % 2 * 4) & 15;
      if (g * 4 + 4 <= w.k) {
        unpack_group(v + 2 * g, nibble, to + 4 * g);
      } else {
        T edge[4];
        unpack_group(v + 2 * g, nibble, edge);
        std::memcpy(to + 4 * g, edge, (w.k - 4 * g) * sizeof(T));
      }
    }
  }
}

template <class T>
int64_t not_2_4(const Weight& w, int64_t row) {
  const T* from = static_cast<const T*>(w.data) + row * w.k;
  for (int64_t c = 0; c < w.k; c += 4) {
    int nonzero = 0;
    for (int64_t i = c; i < least(c + 4, w.k); ++i) nonzero += !is_zero(from[i]);
    if (nonzero > 2) return c;
  }
  return -1;
}

template <class T>
int64_t not_finite(const Weight& w, T exponent, int64_t row) {
  const T* from = static_cast<const T*>(w.data) + row * w.k;
  bool any = false;
  for (int64_t c = 0; c < w.k; ++c) any |= (from[c] & exponent) == exponent;
  if (!any) return -1;
  int64_t c = 0;
  while ((from[c] & exponent) != exponent) ++c;
  return c;
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
