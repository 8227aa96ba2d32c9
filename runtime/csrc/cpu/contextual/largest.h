// Selection of the largest scores, and lists of the selected neurons.
#pragma once

#include "../kernels/vec.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr uint32_t kNan = 0xffffffff;

// Maps scores to integers of the same order; -0 equals 0, and NaN is above all. F and U are scalars or vectors of the
// same width.
template <class F, class U>
inline U key_of(F score) {
  score += 0.f;
  U bits;
  std::memcpy(&bits, &score, sizeof bits);
  const U negative = 0u - (bits >> 31);
  return score != score ? U{} + kNan : bits ^ (negative | 0x80000000u);
}

inline void keys_of(const float* scores, int64_t n, uint32_t* keys) {
  int64_t i = 0;
  for (; i + W <= n; i += W) *reinterpret_cast<vu_any*>(keys + i) = key_of<vf, vu>(load(scores + i));
  for (; i < n; ++i) keys[i] = key_of<float, uint32_t>(scores[i]);
}

inline int64_t count_from(const uint32_t* keys, int64_t n, uint32_t least) {
  vu counts[4] = {};
  int64_t i = 0, count = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int j = 0; j < 4; ++j) counts[j] -= (vu)(*reinterpret_cast<const vu_any*>(keys + i + j * W) >= least);
  for (const vu& lanes : counts)
    for (int j = 0; j < W; ++j) count += lanes[j];
  for (; i < n; ++i) count += keys[i] >= least;
  return count;
}

inline void mark_largest(const float* scores, int64_t n, int64_t k, uint32_t* keys, uint8_t* selected) {
  keys_of(scores, n, keys);
  uint32_t least = 0;  // the least of the k largest keys, found bit by bit, or a lower bound that at most k keys reach
  int64_t reached = n;
  for (uint32_t bit = 0x80000000u; bit && reached > k; bit >>= 1) {
    const int64_t count = count_from(keys, n, least | bit);
    if (count >= k) least |= bit, reached = count;
  }
  const bool tied = reached > k && least != kNan;
  const uint32_t from = tied ? least + 1 : least;
  for (int64_t i = 0; i < n; ++i) selected[i] |= keys[i] >= from;
  int64_t ties = tied ? k - count_from(keys, n, from) : 0;
  for (int64_t i = 0; ties > 0; ++i)
    if (keys[i] == least) selected[i] = 1, --ties;
}

inline int32_t list_selected(const uint8_t* selected, int64_t n, int32_t* neurons) {
  int32_t count = 0;
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + W <= n; i += W) {
    const __m128i ones = _mm_loadu_si128(reinterpret_cast<const __m128i*>(selected + i));
    const __mmask16 mask = _mm_test_epi8_mask(ones, ones);
    _mm512_storeu_si512(neurons + count, _mm512_maskz_compress_epi32(mask, (__m512i)(kLane + static_cast<uint32_t>(i))));
    count += __builtin_popcount(mask);
  }
#endif
  for (; i < n; ++i) {
    neurons[count] = static_cast<int32_t>(i);  // overwritten by the next one unless this neuron is selected
    count += selected[i];
  }
  for (i = count; i < n; ++i) neurons[i] = 0;  // not memset, which needs a valid pointer even for 0 bytes
  return count;
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
