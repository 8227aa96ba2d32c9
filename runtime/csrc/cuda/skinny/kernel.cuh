// The kernel for sm_80 and later. Include it after device.cuh or, on the host, emulator.h.
//
// A block multiplies a strip of S::rows rows of W with up to S::m_rows rows of x over its share of K. Stages of W, its
// positions and x pass through a ring in shared memory, of which all but one are being loaded at any time. From each
// stage the warps load their rows of W and x with ldmatrix, directly into the fragments of mma.sp.
#pragma once

#include <type_traits>

#include "fragments.cuh"
#include "shape.h"
#include "skinny.h"

namespace sparseflow::cuda::skinny {

struct Span {
  int row, m;       // the first of W and of x
  int first, last;  // units of K
};

template <class S>
__device__ inline int units_in(const Span& span, int stage) {
  const int left = span.last - span.first - stage * S::blocks;
  return left < S::blocks ? left : S::blocks;
}

template <class S>
__device__ inline void load_values(const Product& p, const Span& span, int unit, int units, Shared to,
                                   uint64_t policy) {
  constexpr int across = S::value_pitch / 16, down = S::threads / across;  // pieces of 16 bytes, rows at a time
  const int top = threadIdx.x / across, c = threadIdx.x % across;
  if (c / (across / S::blocks) >= units) return;
  const int64_t pitch = int64_t(p.k / 64) * S::unit_bytes;
  const auto* from = static_cast<const uint8_t*>(p.values) + (span.row + top) * pitch + unit * S::unit_bytes + c * 16;
  to += top * S::value_pitch + swizzled<S::value_pitch>(top, c) * 16;
#pragma unroll
  for (int r = 0; r < S::rows; r += down)
    if (span.row + top + r < p.n) copy(to + r * S::value_pitch, from + r * pitch, policy);
}

template <class S>
__device__ inline void load_positions(const Product& p, const Span& span, int unit, int units, Shared to,
                                   uint64_t policy) {
  constexpr int across = 32 * S::blocks;  // pieces of a strip of 64 rows
#pragma unroll
  for (int i = threadIdx.x; i < S::position_bytes / 16; i += S::threads) {
    const int strip = i / across, c = i % across;
    if (c / 32 >= units || span.row + 64 * strip >= p.n) continue;
    const int64_t tile = int64_t(span.row / 64 + strip) * (p.k / 32) + 2 * unit;
    copy(to + i * 16, static_cast<const uint8_t*>(p.positions) + tile * 256 + c * 16, policy);
  }
}

template <class S>
__device__ inline void load_x(const Product& p, const Span& span, int unit, int units, Shared to) {
  constexpr int across = 8 * S::blocks;
#pragma unroll
  for (int i = threadIdx.x; i < S::m_rows * across; i += S::threads) {
    const int row = i / across, c = i % across;
    if (c / 8 >= units) continue;
    const bool inside = span.m + row < p.m;
    const auto* from = static_cast<const uint8_t*>(p.x) + (int64_t(inside ? span.m + row : 0) * p.k + unit * 64) * 2;
    copy_or_zero(to + row * S::x_pitch + swizzled<S::x_pitch>(row, c) * 16, from + c * 16, inside);
  }
}

template <class S>
__device__ inline void load_stage(const Product& p, const Span& span, int stage, Shared slot, uint64_t policy) {
  const int unit = span.first + stage * S::blocks, units = units_in<S>(span, stage);
  if (units > 0) {
    load_values<S>(p, span, unit, units, slot, policy);
    load_positions<S>(p, span, unit, units, slot + S::value_bytes, policy);
    load_x<S>(p, span, unit, units, slot + S::value_bytes + S::position_bytes);
  }
  commit();  // even if the group is empty, so that the number of groups is that of stages
}

// Multiplies one unit of a stage, two steps of 32 in K.
template <class T, class S>
__device__ inline void multiply_unit(float (&sums)[S::tiles][S::m_tiles][4], Shared slot, int unit, int top) {
  const int lane = threadIdx.x % 32;
  uint32_t positions[S::tiles];
#pragma unroll
  for (int r = 0; r < S::tiles; ++r) {
    const int row = top + 16 * r;
    positions[r] = load_metadata<S>(slot + S::value_bytes + (row / 64 * S::blocks + unit) * 512, row / 16 % 4);
  }
  const Shared xs = slot + S::value_bytes + S::position_bytes + lane % 8 * S::x_pitch;
  // Lanes 2 and 3 of each four hold the positions of the second step.
  auto step = [&](auto selector) {
    constexpr int s = decltype(selector)::value;
    uint32_t x[S::m_tiles][4];
    const int x_piece = swizzled<S::x_pitch>(lane, unit * 8 + s * 4 + lane / 8) * 16;
#pragma unroll
    for (int j = 0; j < S::m_tiles; ++j) load_matrices(x[j], xs + j * 8 * S::x_pitch + x_piece);
#pragma unroll
    for (int r = 0; r < S::tiles; ++r) {
      uint32_t w[4];
      load_fragment<T, S>(w, slot + (top + 16 * r) * S::value_pitch, unit * 2 + s);
#pragma unroll
      for (int j = 0; j < S::m_tiles; ++j) multiply_add<T, s>(sums[r][j], w, x[j], positions[r]);
    }
  };
  step(std::integral_constant<int, 0>{});
  step(std::integral_constant<int, 1>{});
}

__device__ inline void wait_for_stage(int in_flight) {
  switch (in_flight) {
    case 0: return wait_for_all_but<0>();
    case 1: return wait_for_all_but<1>();
    case 2: return wait_for_all_but<2>();
    case 3: return wait_for_all_but<3>();
    default: return wait_for_all_but<4>();
  }
}

template <class T, class S>
__device__ inline void multiply_span(float (&sums)[S::tiles][S::m_tiles][4], const Product& p, const Span& span,
                                     int slots) {
  const Shared ring = shared_address(shared_memory());
  const uint64_t policy = read_once();
  const int stages = (span.last - span.first + S::blocks - 1) / S::blocks;
  for (int s = 0; s < slots - 1; ++s) load_stage<S>(p, span, s, ring + s * S::stage_bytes, policy);
  const int warp = threadIdx.x / 32, top = warp % S::row_warps * 16 * S::tiles, beside = warp / S::row_warps;
  const bool busy = span.row + top < p.n;  // the last strip may have fewer rows
  int slot = 0, free = slots - 1;
  for (int s = 0; s < stages; ++s) {
    wait_for_stage(slots - 2);
    __syncthreads();  // all threads see this stage, and are done with the previous one
    load_stage<S>(p, span, s + slots - 1, ring + free * S::stage_bytes, policy);
    const int units = units_in<S>(span, s);
#pragma unroll
    for (int u = 0; u < S::blocks; u += S::k_warps)
      if (busy && u + beside < units) multiply_unit<T, S>(sums, ring + slot * S::stage_bytes, u + beside, top);
    free = slot;
    slot = slot + 1 == slots ? 0 : slot + 1;
  }
  wait_for_all_but<0>();
  __syncthreads();
}

// Writes the sums to shared memory, as described in shape.h.
template <class S>
__device__ inline void lay_out(const float (&sums)[S::tiles][S::m_tiles][4], float* to) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  to += warp / S::row_warps * S::m_rows * S::sum_pitch + warp % S::row_warps * 16 * S::tiles;
#pragma unroll
  for (int r = 0; r < S::tiles; ++r)
#pragma unroll
    for (int j = 0; j < S::m_tiles; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        to[(8 * j + lane % 4 * 2 + i % 2) * S::sum_pitch + 16 * r + lane / 4 + i / 2 * 8] = sums[r][j][i];
}

struct Eight {
  float v[8];
};

__device__ inline Eight load_floats(const float* from) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

template <class T>
__device__ inline Eight load_eight(const void* from, int64_t at) {
  const uint4 bits = reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(from) + at)[0];
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
  Eight out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.v[i] = to_float<T>(static_cast<uint16_t>(words[i / 2] >> i % 2 * 16));
  return out;
}

__device__ inline Eight operator+(const Eight& a, const Eight& b) {
  Eight out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.v[i] = a.v[i] + b.v[i];
  return out;
}

template <class F>
__device__ inline Eight each(const Eight& of, F what) {
  Eight out;
#pragma unroll
  for (int i = 0; i < 8; ++i) out.v[i] = what(of.v[i]);
  return out;
}

template <class F>
__device__ inline float each(float of, F what) {
  return what(of);
}

// Applies the activation to one sum or to eight. Eight share one switch: a switch for each took longer than everything
// else at the end of a block.
template <class Sum>
__device__ inline Sum activated(const Sum& sum, Activation activation) {
  switch (activation) {
    case Activation::relu: return each(sum, [](float v) { return v < 0 ? 0.f : v; });  // keeps NaN
    case Activation::gelu: return each(sum, [](float v) { return 0.5f * v * (1 + erff(v * 0.70710678f)); });
    case Activation::gelu_tanh:
      return each(sum, [](float v) { return 0.5f * v * (1 + tanhf(0.79788456f * (v + 0.044715f * v * v * v))); });
    case Activation::silu: return each(sum, [](float v) { return v / (1 + expf(-v)); });
    default: return sum;
  }
}

template <class T>
__device__ inline void store_eight(void* to, int64_t at, const Eight& from) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    words[i] = from_float<T>(from.v[2 * i]) | uint32_t(from_float<T>(from.v[2 * i + 1])) << 16;
  reinterpret_cast<uint4*>(static_cast<uint16_t*>(to) + at)[0] = {words[0], words[1], words[2], words[3]};
}

// The sums of eight neighbouring rows of W from row n on, times what those rows are scaled by.
template <bool Scaled>
__device__ inline Eight scaled(const Product& p, Eight sum, int n) {
  if constexpr (Scaled) {
    if (!p.scales) return sum;
    const Eight scale = load_floats(p.scales + n);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.v[i] *= scale.v[i];
  }
  return sum;
}

__device__ inline Eight times(const Eight& sum, float factor) {
  return each(sum, [=](float v) { return v * factor; });
}

// Eight neighbours of y as they are stored, for a norm that follows.
template <class T>
__device__ inline void begin_norm(const NormAfter& norm, const Eight& y, int m, int n, int64_t width) {
  const Eight stored = each(y, [](float v) { return to_float<T>(from_float<T>(v)); }), weight = load_eight<T>(norm.weight, n);
  Eight x;
  float squares = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) x.v[i] = stored.v[i] * weight.v[i], squares += stored.v[i] * stored.v[i];
  store_eight<T>(norm.x, m * width + n, x);
  norm.squares[(m * width + n) / 8] = squares;
}

// Eight neighbours of y, from whole sums, which a norm before the product multiplies by `factor`.
template <class T, bool Scaled>
__device__ inline void finish(const Product& p, Eight sum, int m, int n, float factor = 1) {
  sum = times(scaled<Scaled>(p, sum, n), factor);
  if (p.bias) sum = sum + load_eight<T>(p.bias, n);
  sum = activated(sum, p.activation);
  const int64_t at = int64_t(m) * p.n + n;
  if (p.residual) sum = sum + load_eight<T>(p.residual, at);
  store_eight<T>(p.y, at, sum);
  if (p.after.weight) begin_norm<T>(p.after, sum, m, n, p.n);
}

// The same where the first half of W's rows is the gate of the second.
template <class T, bool Scaled>
__device__ inline void finish_gated(const Product& p, Eight gate, Eight sum, int m, int n, float factor = 1) {
  const int half = p.n / 2;
  gate = times(scaled<Scaled>(p, gate, n), factor);
  sum = times(scaled<Scaled>(p, sum, half + n), factor);
  if (p.bias) gate = gate + load_eight<T>(p.bias, n), sum = sum + load_eight<T>(p.bias, half + n);
  gate = activated(gate, p.activation);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum.v[i] *= gate.v[i];
  store_eight<T>(p.y, int64_t(m) * half + n, sum);
}

// Adds the sums of a block's k_warps for eight adjacent elements.
template <class S>
__device__ inline Eight sum_of_block(const float* sums, int at) {
  Eight out = load_floats(sums + at);
#pragma unroll
  for (int w = 1; w < S::k_warps; ++w) out = out + load_floats(sums + w * S::m_rows * S::sum_pitch + at);
  return out;
}

// Calls what(m, n, at) for a thread's share of the strip: eight adjacent elements from row m of x and row n of W on,
// both relative to the span, which are at `at` in the sums.
template <class S, class F>
__device__ inline void for_each_eight(const Product& p, const Span& span, int thread, int threads, F what) {
  const int ms = p.m - span.m < S::m_rows ? p.m - span.m : S::m_rows;
  for (int i = thread; i < ms * (S::rows / 8); i += threads) {
    const int m = i / (S::rows / 8), n = i % (S::rows / 8) * 8;
    if (span.row + n < p.n) what(m, n, m * S::sum_pitch + n);
  }
}

// All shares of K are in the cluster's shared memory; each block adds up a part of the strip.
template <class T, class S, int Splits>
__device__ inline void finish_in_cluster(const Product& p, const Span& span, const float* sums) {
  const float* parts[Splits];
#pragma unroll
  for (int s = 0; s < Splits; ++s) parts[s] = Splits == 1 ? sums : peer(sums, s);
  const int thread = (Splits == 1 ? 0 : blockIdx.x * S::threads) + threadIdx.x;
  for_each_eight<S>(p, span, thread, Splits * S::threads, [&](int m, int n, int at) {
    Eight part[Splits];
#pragma unroll
    for (int s = 0; s < Splits; ++s) part[s] = sum_of_block<S>(parts[s], at);
#pragma unroll
    for (int s = 1; s < Splits; ++s) part[0] = part[0] + part[s];
    finish<T, S::e4m3>(p, part[0], span.m + m, span.row + n);
  });
}

template <class T, class S>
__device__ inline void finish_cluster(const Product& p, const Span& span, const float* sums) {
  switch (gridDim.x) {
    case 1: return finish_in_cluster<T, S, 1>(p, span, sums);
    case 2: return finish_in_cluster<T, S, 2>(p, span, sums);
    case 4: return finish_in_cluster<T, S, 4>(p, span, sums);
    default: return finish_in_cluster<T, S, 8>(p, span, sums);
  }
}

template <class S>
__device__ inline void store_partials(const Product& p, const Span& span, const float* sums) {
  for_each_eight<S>(p, span, threadIdx.x, S::threads, [&](int m, int n, int at) {
    const Eight e = sum_of_block<S>(sums, at);
    float* to = p.partials + (int64_t(blockIdx.x) * p.m + span.m + m) * p.n + span.row + n;
    reinterpret_cast<float4*>(to)[0] = {e.v[0], e.v[1], e.v[2], e.v[3]};
    reinterpret_cast<float4*>(to)[1] = {e.v[4], e.v[5], e.v[6], e.v[7]};
  });
}

// Grid: shares of K (a cluster, unless through memory) × strips of W × groups of rows of x.
template <class T, class S>
__global__ void __launch_bounds__(S::threads, S::per_sm) multiply(const Product p, int slots) {
  const int units = p.k / 64, share = blockIdx.x, shares = gridDim.x;
  const Span span{static_cast<int>(blockIdx.y) * S::rows, static_cast<int>(blockIdx.z) * S::m_rows,
                  static_cast<int>(int64_t(units) * share / shares),
                  static_cast<int>(int64_t(units) * (share + 1) / shares)};
  float sums[S::tiles][S::m_tiles][4] = {};
  multiply_span<T, S>(sums, p, span, slots);
  auto* laid_out = reinterpret_cast<float*>(shared_memory());
  lay_out<S>(sums, laid_out);
  if (p.partials) {
    __syncthreads();
    store_partials<S>(p, span, laid_out);
    return;
  }
  if (shares > 1) sync_cluster();
  else __syncthreads();
  finish_cluster<T, S>(p, span, laid_out);
  if (shares > 1) sync_cluster();  // no block exits while others read its memory
}

// The second launch where the shares of K went through memory.
template <class T, bool Scaled>
__global__ void finish_partials(const Product p, int shares) {
  const int64_t across = p.n / 8, count = across * p.m;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
    Eight sum = load_floats(p.partials + i * 8);
    for (int s = 1; s < shares; ++s) sum = sum + load_floats(p.partials + (s * count + i) * 8);
    finish<T, Scaled>(p, sum, static_cast<int>(i / across), static_cast<int>(i % across * 8));
  }
}

}  // namespace sparseflow::cuda::skinny
