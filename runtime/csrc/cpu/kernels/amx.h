// The eight tile registers of AMX, by number; each has 16 rows of 64 bytes. In assembly, because the compilers'
// intrinsics don't declare that they access memory.
#pragma once

#include <cstdint>

#if defined(__AMX_BF16__)
namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int64_t kTileBytes = 1024;

// Enables the tiles for this thread during its lifetime.
struct TilesInUse {
  TilesInUse() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  ~TilesInUse() { asm volatile("tilerelease"); }
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;
};

template <int T>
inline void tile_zero() { asm volatile("tilezero %%tmm%c0" : : "i"(T)); }

template <int T>
inline void tile_load(const void* p) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(int64_t{64}), "i"(T) : "memory");
}

template <int T>
inline void tile_store(void* p) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(int64_t{64}), "i"(T) : "memory");
}

// C[16][16] in fp32 += A[16][32] · B[16][16][2] in bf16: row i of B holds columns 2i and 2i + 1 of A's partner.
template <int C, int A, int B>
inline void tile_multiply() { asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B)); }

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
#endif
