// The functions of instructions.cuh for the host, on the fibers of ../skinny/emulator.h.
#pragma once

#include "../contextual/emulator.h"

using std::fabs, std::isfinite;

inline float fabsf(float v) { return std::fabs(v); }
inline float fmaxf(float a, float b) { return std::fmax(a, b); }
inline float rsqrtf(float v) { return 1 / std::sqrt(v); }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }

namespace sparseflow::cuda {

inline float approximate_power_of_two(float v) { return std::exp2(v); }
inline float approximate_reciprocal(float v) { return 1 / v; }

}  // namespace sparseflow::cuda

namespace sparseflow::cuda::rows {

inline void let_next_start() {}

inline uint4 fetch_once(const void* from, int64_t at) { return contextual::stream16(static_cast<const uint16_t*>(from) + at); }

template <class T>
uint32_t larger_pair(uint32_t pair, uint32_t magnitudes) {
  uint32_t out = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const float a = std::fabs(skinny::to_float<T>(static_cast<uint16_t>(pair >> shift)));
    const float b = skinny::to_float<T>(static_cast<uint16_t>(magnitudes >> shift));
    out |= uint32_t(skinny::from_float<T>(isnan(a) || a > b ? a : b)) << shift;
  }
  return out;
}

inline uint32_t to_e4m3(float v) {
  const uint32_t sign = std::signbit(v) ? 0x80 : 0;
  if (isnan(v)) return sign | 0x7f;
  const float magnitude = std::fmin(std::fabs(v), 448.f);
  const int exponent = std::max(magnitude > 0 ? std::ilogb(magnitude) : -6, -6);
  const auto eighths = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 3 - exponent)));  // 16 carries over
  return sign | (static_cast<uint32_t>(exponent + 6) * 8 + eighths);
}

inline uint32_t to_e4m3(float first, float second) { return to_e4m3(first) | to_e4m3(second) << 8; }

}  // namespace sparseflow::cuda::rows
