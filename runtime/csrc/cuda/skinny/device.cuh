// The instructions of the kernel. emulator.h has the same functions for the host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace sparseflow::cuda::skinny {

struct Bf16 {};
struct Fp16 {};

using Shared = uint32_t;  // an address in shared memory

__device__ inline uint8_t* shared_memory() {
  extern __shared__ __align__(128) uint8_t bytes[];
  return bytes;
}

__device__ inline Shared shared_address(const void* p) { return static_cast<Shared>(__cvta_generic_to_shared(p)); }

// The cache policy for data that is read once, which should be evicted from the L2 first.
__device__ inline uint64_t read_once() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Copies 16 bytes asynchronously.
__device__ inline void copy(Shared to, const void* from, uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "l"(policy)
               : "memory");
}

// Copies 16 bytes asynchronously, or writes zeros.
__device__ inline void copy_or_zero(Shared to, const void* from, bool take) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(take ? 16 : 0) : "memory");
}

__device__ inline void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int Pending>
__device__ inline void wait_for_all_but() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

__device__ inline uint2 load8(Shared from) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(from) : "memory");
  return v;
}

__device__ inline uint32_t load4(Shared from) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
  return v;
}

// Four 8×8 matrices of 16 bits; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(uint32_t (&out)[4], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(row)
               : "memory");
}

// d [16 × 8] += a [16 × 32, 2:4] · b [32 × 8]; Selector is the pair of each four lanes that holds the positions.
#define SPARSEFLOW_MMA_SP(type)                                                                              \
  asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." type "." type ".f32 "           \
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"         \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]),     \
                 "r"(positions), "n"(Selector))

template <class T, int Selector>
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t positions) {
  if constexpr (std::is_same_v<T, Bf16>) SPARSEFLOW_MMA_SP("bf16");
  else SPARSEFLOW_MMA_SP("f16");
}

#undef SPARSEFLOW_MMA_SP

template <class T>
__device__ inline float to_float(uint16_t bits) {
  if constexpr (std::is_same_v<T, Bf16>) return __uint_as_float(uint32_t(bits) << 16);
  else return __half2float(__ushort_as_half(bits));
}

template <class T>
__device__ inline uint16_t from_float(float v) {
  if constexpr (std::is_same_v<T, Bf16>) return __bfloat16_as_ushort(__float2bfloat16_rn(v));
  else return __half_as_ushort(__float2half_rn(v));
}

// Two numbers times two.
template <class T>
__device__ inline uint32_t multiply_pair(uint32_t a, uint32_t b) {
  using Pair = std::conditional_t<std::is_same_v<T, Bf16>, __nv_bfloat162, __half2>;
  const Pair product = __hmul2(reinterpret_cast<const Pair&>(a), reinterpret_cast<const Pair&>(b));
  return reinterpret_cast<const uint32_t&>(product);
}

// All threads of the cluster; orders shared memory among them.
__device__ inline void sync_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Returns the address of `mine` in the shared memory of block `rank` of the cluster.
__device__ inline const float* peer(const float* mine, int rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t theirs;
  asm("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
  return reinterpret_cast<const float*>(theirs);
#else
  return mine;
#endif
}

}  // namespace sparseflow::cuda::skinny
