// The functions of instructions.cuh for the host, on the fibers of ../skinny/emulator.h. Blocks run one after the
// other.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "../skinny/emulator.h"

#define __shared__ static
#define __grid_constant__

using std::max, std::min, std::isnan;

struct float2 {
  float x, y;
};

template <class T>
T exchanged(T v, unsigned lane) {
  static_assert(sizeof(T) <= 8);
  auto& warp = emulated::warp();
  uint64_t* mine = warp.mail;
  std::memcpy(&mine[threadIdx.x % 32], &v, sizeof(T));
  emulated::wait(warp.barrier);
  T out;
  std::memcpy(&out, &mine[lane % 32], sizeof(T));
  emulated::wait(warp.barrier);
  return out;
}

template <class T>
T __shfl_sync(unsigned, T v, int lane) { return exchanged(v, lane); }
template <class T>
T __shfl_xor_sync(unsigned, T v, int step) { return exchanged(v, threadIdx.x % 32 ^ step); }
template <class T>
T __shfl_up_sync(unsigned, T v, int step) {
  const int lane = threadIdx.x % 32;
  return exchanged(v, lane >= step ? lane - step : lane);
}

inline uint32_t __ballot_sync(unsigned, bool v) {
  uint32_t bits = 0;
  auto& warp = emulated::warp();
  uint64_t* mine = warp.mail;
  mine[threadIdx.x % 32] = v;
  emulated::wait(warp.barrier);
  for (int i = 0; i < 32; ++i) bits |= uint32_t(mine[i] != 0) << i;
  emulated::wait(warp.barrier);
  return bits;
}

template <class T>
T atomicAdd(T* to, T v) { return std::exchange(*to, *to + v); }

inline void __threadfence() {}

inline int __popc(uint32_t v) { return std::popcount(v); }
inline int __ffs(int v) { return v ? std::countr_zero(static_cast<uint32_t>(v)) + 1 : 0; }
inline float __uint_as_float(uint32_t v) { return std::bit_cast<float>(v); }
inline uint32_t __float_as_uint(float v) { return std::bit_cast<uint32_t>(v); }

namespace sparseflow::cuda::skinny {

inline uint64_t load_acquiring(const uint64_t* from) { return *from; }
inline uint64_t count(uint64_t* counter) { return (*counter)++; }
inline void replace(uint64_t* word, uint64_t old, uint64_t by) {
  if (*word == old) *word = by;
}

}  // namespace sparseflow::cuda::skinny

namespace sparseflow::cuda::contextual {

inline uint4 stream16(const void* from) {
  if (reinterpret_cast<uintptr_t>(from) % 16) std::abort();
  uint4 v;
  std::memcpy(&v, from, 16);
  return v;
}

inline uint2 stream8(const void* from) {
  if (reinterpret_cast<uintptr_t>(from) % 8) std::abort();
  uint2 v;
  std::memcpy(&v, from, 8);
  return v;
}

inline float2 widen_e4m3(uint16_t two) {
  const auto widened = [](uint32_t v) { return __uint_as_float((v & 0x80u) << 24 | (v & 0x7fu) << 20) * 0x1p120f; };
  return {widened(two & 0xffu), widened(two >> 8)};
}

inline void arrive_at_cluster() {}
inline void wait_for_cluster() { skinny::sync_cluster(); }
inline float* peer_of(float* mine, int rank) { return const_cast<float*>(skinny::peer(mine, rank)); }

inline void wait_for_previous() {}
inline void let_next_start() {}

inline bool last_to_come(uint32_t* ticket, uint32_t blocks) {
  static bool last;
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(ticket, 1u) == blocks - 1;
  __syncthreads();
  return last;
}

template <class T>
T written_by_others(const T* from) {
  return *from;
}

}  // namespace sparseflow::cuda::contextual
