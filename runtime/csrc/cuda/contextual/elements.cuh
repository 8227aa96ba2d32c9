// Elements of every dtype, eight adjacent ones at a time. Include it after instructions.cuh or, on the host,
// emulator.h.
#pragma once

#include "../skinny/kernel.cuh"
#include "contextual.h"

namespace sparseflow::cuda::contextual {

using skinny::Bf16, skinny::Fp16, skinny::Eight;

template <class T>
constexpr int bytes_of = std::is_same_v<T, float> ? 4 : std::is_same_v<T, int8_t> ? 1 : 2;

// Eight adjacent elements as they are in memory.
template <class T>
struct Piece {
  uint32_t words[2 * bytes_of<T>];
};

__device__ inline void put(uint32_t* words, const uint4& v) { words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w; }

template <class T>
__device__ inline uint32_t bits_at(const void* base, int64_t at) {
  if constexpr (bytes_of<T> == 4) return static_cast<const uint32_t*>(base)[at];
  else if constexpr (bytes_of<T> == 2) return static_cast<const uint16_t*>(base)[at];
  else return static_cast<const uint8_t*>(base)[at];
}

// Loads eight elements from `at` on, of which `there` exist; the others are zeros. With `Wide` either all or none
// exist, and they are aligned to their size.
template <class T, bool Wide>
__device__ inline Piece<T> load(const void* base, int64_t at, int there) {
  Piece<T> out{};
  if constexpr (!Wide) {
    constexpr int in_word = 4 / bytes_of<T>;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < there) out.words[i / in_word] |= bits_at<T>(base, at + i) << i % in_word * 8 * bytes_of<T>;
  } else if (there > 0) {
    const auto* from = static_cast<const uint8_t*>(base) + at * bytes_of<T>;
    if constexpr (bytes_of<T> == 1) {
      const uint2 v = stream8(from);
      out.words[0] = v.x, out.words[1] = v.y;
    } else {
#pragma unroll
      for (int i = 0; i < 2 * bytes_of<T>; i += 4) put(out.words + i, stream16(from + 4 * i));
    }
  }
  return out;
}

// As load(), but through the first-level cache, for data that many blocks read.
template <class T, bool Wide>
__device__ inline Piece<T> load_shared(const void* base, int64_t at, int there) {
  if constexpr (!Wide || bytes_of<T> == 1) return load<T, Wide>(base, at, there);
  Piece<T> out{};
  const auto* from = reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(base) + at * bytes_of<T>);
#pragma unroll
  for (int i = 0; i < 2 * bytes_of<T>; i += 4)
    if (there > 0) put(out.words + i, from[i / 4]);
  return out;
}

template <class T>
__device__ inline Eight widened(const Piece<T>& piece) {
  Eight out;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if constexpr (std::is_same_v<T, float>) out.v[i] = __uint_as_float(piece.words[i]);
    // Converts by placing the byte, shifted to 0 … 255, into the lowest bits of a float's mantissa.
    else if constexpr (std::is_same_v<T, int8_t>)
      out.v[i] = __uint_as_float(0x4b000000u | ((piece.words[i / 4] ^ 0x80808080u) >> i % 4 * 8 & 0xffu)) - 8388736.f;
    else out.v[i] = skinny::to_float<T>(static_cast<uint16_t>(piece.words[i / 2] >> i % 2 * 16));
  }
  return out;
}

template <class T>
__device__ inline float element(const void* base, int64_t at) {
  if constexpr (std::is_same_v<T, float>) return static_cast<const float*>(base)[at];
  else return skinny::to_float<T>(static_cast<const uint16_t*>(base)[at]);
}

template <class T>
__device__ inline void store(void* base, int64_t at, float v) {
  if constexpr (std::is_same_v<T, float>) static_cast<float*>(base)[at] = v;
  else static_cast<uint16_t*>(base)[at] = skinny::from_float<T>(v);
}

__device__ inline float dot(const Eight& a, const Eight& b, float sum) {
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += a.v[i] * b.v[i];
  return sum;
}

// Sums over groups of `Lanes` adjacent lanes of a warp; all lanes get bit-identical results.
template <int Lanes>
__device__ inline float sum_of_lanes(float v) {
#pragma unroll
  for (int step = Lanes / 2; step; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}

}  // namespace sparseflow::cuda::contextual
