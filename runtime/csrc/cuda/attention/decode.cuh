// The kernel of decode.h. A cluster of blocks shares the keys of a head, its warps take tiles of 16 keys in turn, each with a
// ring of tiles of its own, so that nothing waits for another warp before the end; then the partial results are added in
// a fixed order, through the shared memory of the cluster. The mathematics is FlashAttention-2's (Dao, 2023), the split
// over the keys Flash-Decoding's; the queries of a group of heads are the rows of one tensor core tile.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "decode.h"

namespace sparseflow::cuda::attention {

constexpr int kTile = 16;  // keys

struct Bf16 {
  static __device__ uint32_t pack(float a, float b) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
    return reinterpret_cast<const uint32_t&>(both);
  }
  static __device__ void store(void* at, int64_t i, float x) { static_cast<__nv_bfloat16*>(at)[i] = __float2bfloat16_rn(x); }
  static __device__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

struct Fp16 {
  static __device__ uint32_t pack(float a, float b) {
    const __half2 both = __floats2half2_rn(a, b);
    return reinterpret_cast<const uint32_t&>(both);
  }
  static __device__ void store(void* at, int64_t i, float x) { static_cast<__half*>(at)[i] = __float2half_rn(x); }
  static __device__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 16 bytes to shared memory; zeros where `there` is false, whose source isn't read.
__device__ inline void copy_async(uint32_t to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

__device__ inline void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int Left>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

template <bool Transposed>
__device__ void load_matrices(uint32_t (&to)[4], uint32_t from) {
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}

// The cluster: how many blocks it has, which one this is, and a number in the shared memory of another.
__device__ inline int cluster_size() {
  int found;
  asm("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(found));
  return found;
}

__device__ inline int cluster_rank() {
  int found;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(found));
  return found;
}

__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }

__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

__device__ inline float remote(const float* here, int rank) {
  uint32_t at;
  float found;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared_address(here)), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(found) : "r"(at) : "memory");
  return found;
}

template <int Dim>
struct Layout {
  static constexpr int chunks = Dim / 8;                          // of 16 bytes, in a key
  static constexpr int pitch = Dim <= 64 ? 128 : Dim <= 128 ? 256 : 512;  // bytes; the swizzle needs a power of two
  static constexpr int matrix = kTile * pitch;                    // bytes of a tile of keys, or of values
  static constexpr int warps = Dim <= 128 ? 8 : 4;                // what fills the memory of a multiprocessor
  static constexpr int threads = warps * 32;
  static constexpr int stages = Dim <= 128 ? 3 : 2;
  static constexpr int ring = stages * 2 * matrix;                // of a warp
  static constexpr int sums = kMostRows * Dim;                    // floats
  static constexpr int bytes = warps * ring + (sums + (warps + 1) * kMostRows * 2) * 4;
  static_assert(sums * 4 <= ring, "a warp's sums take the place of its ring");

  static __device__ uint32_t at(int key, int chunk) { return key * pitch + ((chunk ^ (key & 7)) << 4); }
};

// What a warp knows of its rows; of a tile of the tensor cores a thread holds rows lane / 4 and that + 8.
// Where there are no more than eight rows, `Halves` is 1 and the second ones are zeros that nobody keeps.
template <int Halves>
struct Rows {
  int first[Halves], end[Halves];  // the keys that they see
};

template <int Dim, class T, int Halves>
struct Warp {
  static constexpr int steps = Dim / 16, columns = Dim / 8;
  uint32_t q[steps][2 * Halves];
  float sum[columns][2 * Halves];
  float largest[Halves], total[Halves];
};

// c += a · b of one tile of the tensor cores, all but the rows that aren't there.
template <class T, int Halves>
__device__ void multiply(float (&c)[2 * Halves], const uint32_t (&a)[2 * Halves], uint32_t b0, uint32_t b1) {
  if constexpr (Halves == 2) {
    T::multiply(c, a, b0, b1);
  } else {
    float all[4] = {c[0], c[1], 0.f, 0.f};
    T::multiply(all, {a[0], 0, a[1], 0}, b0, b1);
    c[0] = all[0];
    c[1] = all[1];
  }
}

template <int Dim>
__device__ void fetch(const Decode& p, const char* k, const char* v, uint32_t ring, int key, int end, int lane) {
  using L = Layout<Dim>;
  const char *of_k = k + key * p.k_key * 2, *of_v = v + key * p.v_key * 2;
  const auto copy = [&](int i, bool there) {
    const int n = (i * 32 + lane) / L::chunks, chunk = (i * 32 + lane) % L::chunks;
    copy_async(ring + L::at(n, chunk), there ? of_k + (n * p.k_key + chunk * 8) * 2 : k, there);
    copy_async(ring + L::matrix + L::at(n, chunk), there ? of_v + (n * p.v_key + chunk * 8) * 2 : v, there);
  };
  constexpr int turns = kTile * L::chunks / 32;
  if (key + kTile <= end) {
#pragma unroll
    for (int i = 0; i < turns; ++i) copy(i, true);
  } else {
#pragma unroll
    for (int i = 0; i < turns; ++i) copy(i, key + (i * 32 + lane) / L::chunks < end);
  }
}

// Brings a tile to the second cache, where it is for `fetch`; what changes there afterwards changes for both.
template <int Dim>
__device__ void warm(const Decode& p, const char* k, const char* v, int key, int lane) {
  constexpr int lines = (Dim * 2 + 127) / 128;
  for (int i = lane; i < kTile * lines; i += 32) {
    const int n = key + i / lines, at = i % lines * 128;
    if (n >= p.capacity) continue;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(k + n * p.k_key * 2 + at));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(v + n * p.v_key * 2 + at));
  }
}

// What lies beyond the end may be anything, and 0 · NaN is NaN.
template <int Dim>
__device__ void clear_values(char* ring, int from, int lane) {
  using L = Layout<Dim>;
  for (int i = from * L::chunks + lane; i < kTile * L::chunks; i += 32)
    *reinterpret_cast<uint4*>(ring + L::matrix + L::at(i / L::chunks, i % L::chunks)) = uint4{};
  __syncwarp();
}

template <int Dim, class T, int Halves>
__device__ void take_tile(Warp<Dim, T, Halves>& w, const Decode& p, const Rows<Halves>& rows, const bool* keep,
                          uint32_t ring, int key, int lane) {
  using L = Layout<Dim>;
  using W = Warp<Dim, T, Halves>;
  float s[2][2 * Halves] = {}, more[2][2 * Halves] = {};  // two sums each, so that fewer products wait for others
  const int of_key = (lane / 16) * 8 + lane % 8, of_chunk = (lane / 8) % 2;
#pragma unroll
  for (int step = 0; step < W::steps; ++step) {
    uint32_t b[4];
    load_matrices<false>(b, ring + L::at(of_key, step * 2 + of_chunk));
    multiply<T, Halves>(step % 2 ? more[0] : s[0], w.q[step], b[0], b[1]);
    multiply<T, Halves>(step % 2 ? more[1] : s[1], w.q[step], b[2], b[3]);
  }
  const float scale = p.scale * 1.4426950408889634f;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int n = key + half * 8 + (lane % 4) * 2 + c;
      const bool kept = keep == nullptr || (n < p.capacity && keep[n]);
#pragma unroll
      for (int r = 0; r < Halves; ++r) {
        float& x = s[half][r * 2 + c];
        x = kept && n >= rows.first[r] && n < rows.end[r] ? (x + more[half][r * 2 + c]) * scale : -INFINITY;
      }
    }
  float shrink[Halves];
#pragma unroll
  for (int r = 0; r < Halves; ++r) {
    float most = fmaxf(fmaxf(s[0][r * 2], s[0][r * 2 + 1]), fmaxf(s[1][r * 2], s[1][r * 2 + 1]));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    most = fmaxf(most, w.largest[r]);
    const float base = most == -INFINITY ? 0.f : most;
    shrink[r] = exp2f(w.largest[r] - base);
    w.largest[r] = most;
    w.total[r] *= shrink[r];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = s[half][r * 2 + c];
        x = exp2f(x - base);
        w.total[r] += x;
      }
  }
  uint32_t a[2 * Halves];
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int r = 0; r < Halves; ++r) a[half * Halves + r] = T::pack(s[half][r * 2], s[half][r * 2 + 1]);
  const int v_key = ((lane / 8) % 2) * 8 + lane % 8, v_chunk = lane / 16;
#pragma unroll
  for (int column = 0; column < W::columns; column += 2) {
    uint32_t b[4];
    load_matrices<true>(b, ring + L::matrix + L::at(v_key, column + v_chunk));
#pragma unroll
    for (int one = 0; one < 2; ++one) {
      float(&sum)[2 * Halves] = w.sum[column + one];
#pragma unroll
      for (int i = 0; i < 2 * Halves; ++i) sum[i] *= shrink[i / 2];
      multiply<T, Halves>(sum, a, b[one * 2], b[one * 2 + 1]);
    }
  }
}

template <int Dim, class T, int Halves>
__device__ void load_queries(Warp<Dim, T, Halves>& w, const Decode& p, int count, int lane) {
  const char* q = static_cast<const char*>(p.q) + (blockIdx.z * p.q_batch + int64_t(blockIdx.y) * p.group * p.q_head) * 2;
#pragma unroll
  for (int r = 0; r < Halves; ++r) {
    const int row = lane / 4 + r * 8;
    const bool there = row < count;
    const char* from = q + (row / p.queries * p.q_head + row % p.queries * p.q_query) * 2;
#pragma unroll
    for (int step = 0; step < Warp<Dim, T, Halves>::steps; ++step)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        w.q[step][half * Halves + r] =
            there ? *reinterpret_cast<const uint32_t*>(from + (step * 16 + half * 8 + (lane % 4) * 2) * 2) : 0;
  }
}

// A partial result: sums [rows][Dim], and for each row the largest score and the total of the weights.
template <int Dim>
struct Partial {
  float *sums, *stats;
};

template <int Dim, class T, int Halves>
__device__ void leave(Warp<Dim, T, Halves>& w, Partial<Dim> to, int count, int lane) {
#pragma unroll
  for (int r = 0; r < Halves; ++r) {
    w.total[r] += __shfl_xor_sync(~0u, w.total[r], 1);
    w.total[r] += __shfl_xor_sync(~0u, w.total[r], 2);
    const int row = lane / 4 + r * 8;
    if (row >= count) continue;
    if (lane % 4 == 0) {
      to.stats[row * 2] = w.largest[r];
      to.stats[row * 2 + 1] = w.total[r];
    }
#pragma unroll
    for (int column = 0; column < Warp<Dim, T, Halves>::columns; ++column)
      *reinterpret_cast<float2*>(to.sums + row * Dim + column * 8 + (lane % 4) * 2) =
          float2{w.sum[column][r * 2], w.sum[column][r * 2 + 1]};
  }
}

struct Sum {
  float value, largest, total;
};

// Adds `Most` partial results in order, of which the first `count` are there.
template <int Most, class Get>
__device__ Sum add_partials(int count, Get get) {
  Sum part[Most];
  float most = -INFINITY;
#pragma unroll
  for (int i = 0; i < Most; ++i) {
    part[i] = i < count ? get(i) : Sum{0.f, -INFINITY, 0.f};
    most = fmaxf(most, part[i].largest);
  }
  Sum sum{0.f, most, 0.f};
  const float base = most == -INFINITY ? 0.f : most;
#pragma unroll
  for (int i = 0; i < Most; ++i) {
    const float weight = exp2f(part[i].largest - base);
    sum.value += weight * part[i].value;
    sum.total += weight * part[i].total;
  }
  return sum;
}

template <class T>
__device__ void finish(const Decode& p, int64_t at, const Sum& sum) {
  T::store(p.out, at, sum.total > 0.f ? sum.value / sum.total : 0.f);
}

template <int Dim, class T, int Halves>
__global__ void __launch_bounds__(Layout<Dim>::threads) decode_kernel(const Decode p) {
  using L = Layout<Dim>;
  extern __shared__ __align__(128) char memory[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, count = p.group * p.queries;
  const int size = cluster_size(), rank = cluster_rank();
  char* const mine = memory + warp * L::ring;
  const uint32_t ring = shared_address(mine);
  float* const block_sums = reinterpret_cast<float*>(memory + L::warps * L::ring);
  float* const block_stats = block_sums + L::sums;
  float* const warp_stats = block_stats + kMostRows * 2;
  const char* k = static_cast<const char*>(p.k) + (blockIdx.z * p.k_batch + blockIdx.y * p.k_head) * 2;
  const char* v = static_cast<const char*>(p.v) + (blockIdx.z * p.v_batch + blockIdx.y * p.v_head) * 2;
  const bool* keep = p.keep == nullptr ? nullptr : p.keep + blockIdx.z * p.keep_batch;

  // Without a window the first tile doesn't depend on the position, so it is asked for before that is known.
  const int turn = rank * L::warps + warp, step = size * L::warps;
  const bool early = p.window == 0;
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");  // the next kernel may load its weight
  if (early) warm<Dim>(p, k, v, turn * kTile, lane);
  asm volatile("griddepcontrol.wait;" ::: "memory");  // the launch may have been before the end of what wrote the cache
  if (early) fetch<Dim>(p, k, v, ring, turn * kTile, p.capacity, lane);
  commit();
  const int position = p.position == nullptr ? p.capacity : static_cast<int>(min(*p.position, int64_t(p.capacity)));
  Warp<Dim, T, Halves> w;
  load_queries(w, p, count, lane);
  Rows<Halves> rows;
#pragma unroll
  for (int r = 0; r < Halves; ++r) {
    const int at = position + (lane / 4 + r * 8) % p.queries;
    rows.end[r] = min(at + 1, p.capacity);
    rows.first[r] = p.window == 0 ? 0 : at - p.window + 1;
    w.largest[r] = -INFINITY;
    w.total[r] = 0.f;
  }
#pragma unroll
  for (auto& sum : w.sum)
#pragma unroll
    for (float& one : sum) one = 0.f;
  const int end = min(position + p.queries, p.capacity);
  const int first = p.window == 0 ? 0 : max(position - p.window + 1, 0) / kTile;
  const int begin = (first + turn) * kTile;
  if (!early && begin < end) fetch<Dim>(p, k, v, ring, begin, end, lane);
  commit();
#pragma unroll
  for (int i = 1; i < L::stages - 1; ++i) {
    const int key = begin + i * step * kTile;
    if (key < end) fetch<Dim>(p, k, v, ring + i * 2 * L::matrix, key, end, lane);
    commit();
  }
  int stage = 0;
  for (int key = begin; key < end; key += step * kTile) {
    wait_for_copies<L::stages - 2>();
    __syncwarp();
    const int next = key + (L::stages - 1) * step * kTile;
    const int free = stage == 0 ? L::stages - 1 : stage - 1;
    if (next < end) fetch<Dim>(p, k, v, ring + free * 2 * L::matrix, next, end, lane);
    commit();
    if (key + kTile > end) clear_values<Dim>(mine + stage * 2 * L::matrix, end - key, lane);
    take_tile(w, p, rows, keep, ring + stage * 2 * L::matrix, key, lane);
    stage = stage == L::stages - 1 ? 0 : stage + 1;
  }
  wait_for_copies<0>();
  __syncwarp();
  leave(w, Partial<Dim>{reinterpret_cast<float*>(mine), warp_stats + warp * kMostRows * 2}, count, lane);
  __syncthreads();

  const int64_t out = (int64_t(blockIdx.z) * p.kv_heads + blockIdx.y) * count * Dim;
  for (int i = threadIdx.x; i < count * Dim; i += L::threads) {
    const Sum sum = add_partials<L::warps>(L::warps, [&](int from) {
      const float* stats = warp_stats + (from * kMostRows + i / Dim) * 2;
      return Sum{reinterpret_cast<const float*>(memory + from * L::ring)[i], stats[0], stats[1]};
    });
    if (size == 1) {
      finish<T>(p, out + i, sum);
      continue;
    }
    block_sums[i] = sum.value;
    if (i % Dim == 0) {
      block_stats[i / Dim * 2] = sum.largest;
      block_stats[i / Dim * 2 + 1] = sum.total;
    }
  }
  if (size == 1) return;
  cluster_arrive();
  cluster_wait();
  // Every block adds a part of the columns.
  const int share = (count * Dim + size - 1) / size;
  for (int i = rank * share + threadIdx.x; i < min((rank + 1) * share, count * Dim); i += L::threads) {
    const float* stats = block_stats + i / Dim * 2;
    const Sum sum = add_partials<kMostCluster>(size, [&](int from) {
      return Sum{remote(block_sums + i, from), remote(stats, from), remote(stats + 1, from)};
    });
    finish<T>(p, out + i, sum);
  }
  cluster_arrive();  // until here others may read this block's memory
  cluster_wait();
}

}  // namespace sparseflow::cuda::attention
