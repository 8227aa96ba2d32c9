// The instructions of hopper.cuh: the copy engine, its barriers, and wgmma with a sparse operand.
#pragma once

#include <cuda.h>

#include "device.cuh"

namespace sparseflow::cuda::skinny {

__device__ inline void init_barrier(Shared bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}

// Makes writes to shared memory visible to the copy engine.
__device__ inline void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  publish();
}

// Arrives, and makes the phase wait for `bytes` of copies as well.
__device__ inline void arrive_expecting(Shared bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

__device__ inline void arrive(Shared bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

__device__ inline void wait_for(Shared bar, uint32_t parity) {
  uint32_t done = 0;
  while (!done)
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(bar), "r"(parity)
        : "memory");
}

__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Copies a box of a matrix from column c and row r on; elements outside the matrix become zeros.
__device__ inline void copy_box(Shared to, const CUtensorMap& map, int c, int r, Shared bar, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(c), "r"(r), "r"(bar), "l"(policy)
      : "memory");
}

__device__ inline void copy_bytes(Shared to, const void* from, int bytes, Shared bar, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(bar), "l"(policy)
      : "memory");
}

// Copies from shared to global memory, and waits for it.
__device__ inline void store_bytes(float* to, Shared from, int bytes) {
  asm volatile(
      "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\ncp.async.bulk.commit_group;\n"
      "cp.async.bulk.wait_group 0;" ::"l"(to),
      "r"(from), "r"(bytes)
      : "memory");
}

__device__ inline uint64_t load_acquiring(const uint64_t* from) {
  uint64_t value;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
  return value;
}

// Adds one and returns the previous value. Orders memory accesses among the threads that count.
__device__ inline uint64_t count(uint64_t* counter) {
  uint64_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], 1;" : "=l"(before) : "l"(counter) : "memory");
  return before;
}

// Replaces `old`, unless another thread has changed it.
__device__ inline void replace(uint64_t* word, uint64_t old, uint64_t by) {
  asm volatile("atom.relaxed.gpu.global.cas.b64 _, [%0], %1, %2;" ::"l"(word), "l"(old), "l"(by) : "memory");
}

__device__ inline uint64_t read_often() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

__device__ inline void begin_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ inline void end_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int Pending>
__device__ inline void wait_for_wgmma() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Keeps a value in its register up to here, because the registers of a running wgmma must not be reused.
__device__ inline void keep(uint32_t value) { asm volatile("" ::"r"(value) : "memory"); }

// Describes a matrix with rows of 64 or 128 bytes, swizzled by as many bytes and aligned to eight rows.
template <int RowBytes>
__device__ inline uint64_t matrix_at(Shared address) {
  static_assert(RowBytes == 64 || RowBytes == 128);
  return uint64_t(address >> 4 & 0x3fff) | uint64_t(1) << 16 | uint64_t(RowBytes / 2) << 32 |
         uint64_t(RowBytes == 128 ? 1 : 2) << 62;
}

// The matrix `bytes` behind one; shared memory ends before the address could carry.
__device__ inline uint64_t matrix_behind(uint64_t matrix, int bytes) {
  return (matrix & 0xffffffff00000000) | (static_cast<uint32_t>(matrix) + (bytes >> 4));
}

// d [64 × N] += a [64 × 32, 2:4] · b [32 × N], b in shared memory, a there or in registers; a lane's part of d as m16n8
// has it, by tiles of 8 columns. Selector as in mma.sp.
#define SPARSEFLOW_F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SPARSEFLOW_F16(i) SPARSEFLOW_F4(i), SPARSEFLOW_F4(i + 4), SPARSEFLOW_F4(i + 8), SPARSEFLOW_F4(i + 12)
#define SPARSEFLOW_F32(i) SPARSEFLOW_F16(i), SPARSEFLOW_F16(i + 16)
// W as `where` says: MEMORY or REGISTERS.
#define SPARSEFLOW_A_MEMORY(a, ...) a
#define SPARSEFLOW_A_REGISTERS(a, a1, a2, a3) "{" a ", " a1 ", " a2 ", " a3 "}"
#define SPARSEFLOW_FROM_MEMORY "l"(a_matrix)
#define SPARSEFLOW_FROM_REGISTERS "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3])
#define SPARSEFLOW_WGMMA(where, n, type, regs, b, e, s, a, a1, a2, a3, ...)                                \
  asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\nwgmma.mma_async.sp.sync.aligned.m64n" n "k32.f32." \
               type "." type " {" regs "}, " SPARSEFLOW_A_##where(a, a1, a2, a3) ", " b ", " e ", " s      \
               ", p, 1, 1, " SPARSEFLOW_TRANSPOSED_##where "0;\n}"                                         \
               : __VA_ARGS__                                                                               \
               : "l"(b_matrix), "r"(positions), "n"(Selector), SPARSEFLOW_FROM_##where)
#define SPARSEFLOW_TRANSPOSED_MEMORY "0, "  // only in memory W could be
#define SPARSEFLOW_TRANSPOSED_REGISTERS ""
#define SPARSEFLOW_R8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define SPARSEFLOW_R16 SPARSEFLOW_R8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define SPARSEFLOW_R32 \
  SPARSEFLOW_R16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SPARSEFLOW_R64                                                                    \
  SPARSEFLOW_R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45" \
                 ", %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SPARSEFLOW_R128                                                                  \
  SPARSEFLOW_R64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define SPARSEFLOW_WGMMAS(where, type)                                                                             \
  if constexpr (N == 8)                                                                                            \
    SPARSEFLOW_WGMMA(where, "8", type, "%0, %1, %2, %3", "%4", "%5", "%6", "%7", "%8", "%9", "%10",                \
                     SPARSEFLOW_F4(0));                                                                            \
  else if constexpr (N == 16)                                                                                      \
    SPARSEFLOW_WGMMA(where, "16", type, SPARSEFLOW_R8, "%8", "%9", "%10", "%11", "%12", "%13", "%14",              \
                     SPARSEFLOW_F4(0), SPARSEFLOW_F4(4));                                                          \
  else if constexpr (N == 32)                                                                                      \
    SPARSEFLOW_WGMMA(where, "32", type, SPARSEFLOW_R16, "%16", "%17", "%18", "%19", "%20", "%21", "%22",           \
                     SPARSEFLOW_F16(0));                                                                           \
  else if constexpr (N == 64)                                                                                      \
    SPARSEFLOW_WGMMA(where, "64", type, SPARSEFLOW_R32, "%32", "%33", "%34", "%35", "%36", "%37", "%38",           \
                     SPARSEFLOW_F32(0));                                                                           \
  else if constexpr (N == 128)                                                                                     \
    SPARSEFLOW_WGMMA(where, "128", type, SPARSEFLOW_R64, "%64", "%65", "%66", "%67", "%68", "%69", "%70",          \
                     SPARSEFLOW_F32(0), SPARSEFLOW_F32(32));                                                       \
  else                                                                                                             \
    SPARSEFLOW_WGMMA(where, "256", type, SPARSEFLOW_R128, "%128", "%129", "%130", "%131", "%132", "%133", "%134",  \
                     SPARSEFLOW_F32(0), SPARSEFLOW_F32(32), SPARSEFLOW_F32(64), SPARSEFLOW_F32(96))

template <class T, int N, int Selector>
__device__ inline void multiply_add_group(float* d, uint64_t a_matrix, uint64_t b_matrix, uint32_t positions) {
  static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 128 || N == 256);
  if constexpr (std::is_same_v<T, Bf16>) {
    SPARSEFLOW_WGMMAS(MEMORY, "bf16");
  } else {
    SPARSEFLOW_WGMMAS(MEMORY, "f16");
  }
}

// With a lane's part of a as m16n8k32 has it, the warp's 16 of the 64 rows.
template <class T, int N, int Selector>
__device__ inline void multiply_add_group(float* d, const uint32_t (&w)[4], uint64_t b_matrix, uint32_t positions) {
  static_assert(N == 8 || N == 16 || N == 32 || N == 64 || N == 128);
  if constexpr (std::is_same_v<T, Bf16>) {
    SPARSEFLOW_WGMMAS(REGISTERS, "bf16");
  } else {
    SPARSEFLOW_WGMMAS(REGISTERS, "f16");
  }
}

#undef SPARSEFLOW_F4
#undef SPARSEFLOW_F16
#undef SPARSEFLOW_F32
#undef SPARSEFLOW_A_MEMORY
#undef SPARSEFLOW_A_REGISTERS
#undef SPARSEFLOW_FROM_MEMORY
#undef SPARSEFLOW_FROM_REGISTERS
#undef SPARSEFLOW_TRANSPOSED_MEMORY
#undef SPARSEFLOW_TRANSPOSED_REGISTERS
#undef SPARSEFLOW_WGMMA
#undef SPARSEFLOW_WGMMAS
#undef SPARSEFLOW_R8
#undef SPARSEFLOW_R16
#undef SPARSEFLOW_R32
#undef SPARSEFLOW_R64
#undef SPARSEFLOW_R128

// Programmatic launches: let the next kernel of the stream start; wait for what came before.
__device__ inline void let_next_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ inline void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

}  // namespace sparseflow::cuda::skinny
