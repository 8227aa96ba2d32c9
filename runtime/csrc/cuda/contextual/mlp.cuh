// The MLP over a list of neurons, in two launches. The first multiplies by the rows of gate and up, a warp for each
// neuron. The second multiplies by the rows of down; blocks that share a list write partial sums to memory, and the
// last block to finish adds them in a fixed order.
#pragma once

#include "marks.cuh"

namespace sparseflow::cuda::contextual {

constexpr int kUpThreads = 128, kDownThreads = 512, kDownWarps = kDownThreads / 32;

__device__ inline float activated(float v, Activation activation) {
  if (activation != Activation::relu2) return skinny::activated(v, activation);
  const float positive = skinny::activated(v, Activation::relu);
  return positive * positive;
}

// One list of neurons, or the marked ones, and the rows of x that it is for. All threads of a block construct it. It is
// small, because registers are scarce: `p` is in constant memory, and the marks are in shared memory.
template <int Threads>
struct List {
  int which, count;

  __device__ List(const Mlp& p, int list) : which(list) {
    if (p.marks) count = marked().template read<Threads>(p.marks, p.intermediate);
    else count = min(max(written_by_others(p.count + which), 0), p.intermediate);
  }

  static __device__ Marked& marked() {
    __shared__ Marked shared;
    return shared;
  }

  __device__ int row(const Mlp& p) const { return p.per_row ? which : 0; }
  __device__ int rows(const Mlp& p) const { return p.per_row ? 1 : p.m; }

  __device__ int neuron(const Mlp& p, int at) const {
    if (p.marks) return marked().neuron(at, p.intermediate);
    return written_by_others(p.neurons + int64_t(which) * p.intermediate + at);
  }
};

template <class X>
__device__ inline float finished(float sum, const float* scale, const void* bias, int neuron) {
  if (scale) sum *= scale[neuron];
  return bias ? sum + element<X>(bias, neuron) : sum;
}

// Computes a neuron's activations for `Rows` rows of x from the products with its rows of gate and up.
template <class X>
__device__ inline float hidden_value(const Mlp& p, float gate, float up, int neuron) {
  up = finished<X>(up, p.up_scale, p.up_bias, neuron);
  up = p.gate ? activated(finished<X>(gate, p.gate_scale, p.gate_bias, neuron), p.activation) * up
              : activated(up, p.activation);
  return p.down_scale ? up * p.down_scale[neuron] : up;
}

// Multiplies one neuron's rows with `Rows` rows of x from `row` on, of which `rows` exist; run by a warp.
template <class W, class X, int Rows, bool Wide>
__device__ inline void up_products(const Mlp& p, int neuron, int row, int rows, float (&gate)[Rows], float (&up)[Rows]) {
  constexpr int ahead = 8 / bytes_of<W>;  // pieces of each matrix that are being loaded
  const int lane = threadIdx.x % 32;
  const int64_t first = int64_t(neuron) * p.hidden;
  for (int from = 0; from < p.hidden; from += ahead * 256) {
    Piece<W> g[ahead], u[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int k = from + i * 256 + lane * 8;
      g[i] = load<W, Wide>(p.gate, first + k, p.gate ? p.hidden - k : 0);
      u[i] = load<W, Wide>(p.up, first + k, p.hidden - k);
    }
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int k = from + i * 256 + lane * 8;
      const Eight wide_g = widened<W>(g[i]), wide_u = widened<W>(u[i]);
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        const int64_t at = int64_t(row + min(r, rows - 1)) * p.hidden + k;
        const Eight x = widened<X>(load_shared<X, Wide>(p.x, at, p.hidden - k));
        gate[r] = dot(x, wide_g, gate[r]);
        up[r] = dot(x, wide_u, up[r]);
      }
    }
  }
}

// Grid: as many blocks as fit on the GPU × lists.
template <class W, class X, int Rows, bool Wide>
__global__ void __launch_bounds__(kUpThreads, Rows == 1 ? 8 : 4) gate_and_up(const Mlp p) {
  wait_for_previous();
  let_next_start();
  for (int i = threadIdx.x; blockIdx.x == 0 && i < strips(p.hidden); i += kUpThreads)
    p.tickets[blockIdx.y * strips(p.hidden) + i] = 0;
  const List<kUpThreads> list(p, blockIdx.y);
  const int lane = threadIdx.x % 32, warps = kUpThreads / 32;
  for (int at = blockIdx.x * warps + threadIdx.x / 32; at < list.count; at += gridDim.x * warps) {
    const int neuron = list.neuron(p, at);
    const bool known = neuron >= 0 && neuron < p.intermediate;
    for (int m = 0; m < list.rows(p); m += Rows) {
      float gate[Rows] = {}, up[Rows] = {};
      up_products<W, X, Rows, Wide>(p, known ? neuron : 0, list.row(p) + m, list.rows(p) - m, gate, up);
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        const float g = sum_of_lanes<32>(gate[r]), u = sum_of_lanes<32>(up[r]);
        if (lane == r && m + r < list.rows(p))
          p.h[int64_t(list.row(p) + m + r) * p.intermediate + at] =
              known ? hidden_value<X>(p, g, u, neuron) : __uint_as_float(0x7fc00000u);
      }
    }
  }
}

// The neurons of a list that a warp handles.
struct Share {
  int first, last;
};

// sums += h · down for eight columns from `column` on, over a share of the neurons; run by a warp. Only h is written by
// the previous launch, gate_and_up, which lets this one start once the list or the marks are complete. So the first
// rows of down are loaded before h is ready.
template <class W, int Rows, bool Wide>
__device__ inline void down_products(const Mlp& p, const List<kDownThreads>& list, const Share& share, int m, int column,
                                     Eight (&sums)[Rows]) {
  // `ahead`: rows of down that are being loaded, as many as registers allow. `held`: neurons that the lanes hold.
  constexpr int ahead = bytes_of<W> == 4 ? 4 : 7, held = 32 / ahead * ahead;
  const int lane = threadIdx.x % 32;
  for (int from = share.first; from < share.last; from += held) {
    const int n = min(held, share.last - from);
    const int mine = lane < n ? list.neuron(p, from + lane) : 0;
    const int neuron = mine >= 0 && mine < p.intermediate ? mine : 0;
    Piece<W> w[ahead];
    const auto load_from = [&](int j) {
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const int64_t row = __shfl_sync(~0u, neuron, j + i);
        w[i] = load<W, Wide>(p.down, row * p.hidden + column, j + i < n ? p.hidden - column : 0);
      }
    };
    load_from(0);
    wait_for_previous();
    let_next_start();
    float h[Rows];
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      const int64_t row = list.row(p) + min(m + r, list.rows(p) - 1);
      h[r] = lane < n ? p.h[row * p.intermediate + from + lane] : 0;
    }
    for (int j = 0; j < n; j += ahead) {
      if (j > 0) load_from(j);
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const Eight wide = widened<W>(w[i]);
#pragma unroll
        for (int r = 0; r < Rows; ++r) {
          const float factor = __shfl_sync(~0u, h[r], j + i);
#pragma unroll
          for (int c = 0; c < 8; ++c) sums[r].v[c] += factor * wide.v[c];
        }
      }
    }
  }
}

// Returns the sum of all warps for column threadIdx.x of the strip, in the first `strip` threads.
__device__ inline float sum_of_warps(const Eight& mine) {
  __shared__ float sums[kDownWarps][kStrip];
  __syncthreads();
#pragma unroll
  for (int c = 0; c < 8; ++c) sums[threadIdx.x / 32][c * 32 + threadIdx.x % 32] = mine.v[c];
  __syncthreads();
  float sum = 0;
  if (threadIdx.x < kStrip)
#pragma unroll
    for (int w = 0; w < kDownWarps; ++w) sum += sums[w][threadIdx.x % 8 * 32 + threadIdx.x / 8];
  return sum;
}

template <class X>
__device__ inline void finish(const Mlp& p, int row, int column, float sum) {
  if (p.down_bias) sum += element<X>(p.down_bias, column);
  store<X>(p.y, int64_t(row) * p.hidden + column, sum);
}

// Computes y from the partial sums of `splits` blocks.
template <class X>
__device__ inline void sum_up(const Mlp& p, const List<kDownThreads>& list, int splits) {
  for (int i = threadIdx.x; i < list.rows(p) * kStrip; i += kDownThreads) {
    const int row = list.row(p) + i / kStrip, column = blockIdx.x * kStrip + i % kStrip;
    if (column >= p.hidden) continue;
    float sum = 0;
#pragma unroll 16
    for (int s = 0; s < splits; ++s) sum += written_by_others(p.partials + (int64_t(s) * p.m + row) * p.hidden + column);
    finish<X>(p, row, column, sum);
  }
}

// Grid: strips × splits × lists. Fewer blocks share a short list.
template <class W, class X, int Rows, bool Wide>
__global__ void __launch_bounds__(kDownThreads, Rows == 1 ? 2 : 1) sum_of_down(const Mlp p) {
  const List<kDownThreads> list(p, blockIdx.z);
  const int splits = max(1, min(p.splits, list.count / kDownWarps)), split = blockIdx.y;
  if (split >= splits) return;
  const int64_t warps = splits * kDownWarps, warp = split * kDownWarps + threadIdx.x / 32;
  const Share share{static_cast<int>(list.count * warp / warps), static_cast<int>(list.count * (warp + 1) / warps)};
  const int first = blockIdx.x * kStrip, column = first + threadIdx.x;
  for (int m = 0; m < list.rows(p); m += Rows) {
    Eight sums[Rows] = {};
    down_products<W, Rows, Wide>(p, list, share, m, first + threadIdx.x % 32 * 8, sums);
    wait_for_previous();  // a block without neurons hasn't waited yet
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      const float sum = sum_of_warps(sums[r]);
      if (threadIdx.x >= kStrip || column >= p.hidden || m + r >= list.rows(p)) continue;
      const int row = list.row(p) + m + r;
      if (splits == 1) finish<X>(p, row, column, sum);
      else p.partials[(int64_t(split) * p.m + row) * p.hidden + column] = sum;
    }
  }
  if (splits == 1) return;
  if (last_to_come(p.tickets + blockIdx.z * gridDim.x + blockIdx.x, splits)) sum_up<X>(p, list, splits);
}

}  // namespace sparseflow::cuda::contextual
