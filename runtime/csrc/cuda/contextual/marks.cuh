// Neurons marked by a bit each, and their numbering by a block. Include it after elements.cuh.
#pragma once

#include "elements.cuh"

namespace sparseflow::cuda::contextual {

// Sums the values of all threads of a block before this one. `of_warp` is shared memory for a value of each warp.
template <int Threads, class T>
__device__ inline T sum_before(T v, T& total, T* of_warp) {
  constexpr int warps = Threads / 32;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T until = v;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const T other = __shfl_up_sync(~0u, until, step);
    if (lane >= step) until += other;
  }
  __syncthreads();
  if (lane == 31) of_warp[warp] = until;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int w = 0; w < warps; ++w) {
    if (w == warp) before = total;
    total += of_warp[w];
  }
  return before + until - v;
}

template <int Threads, class T>
__device__ inline T sum_before(T v, T& total) {
  __shared__ T of_warp[Threads / 32];
  return sum_before<Threads>(v, total, of_warp);
}

// The adjacent words of a thread.
template <int Threads>
struct Span {
  int first, last;

  __device__ explicit Span(int count) {
    const int each = (count + Threads - 1) / Threads;
    first = min(static_cast<int>(threadIdx.x) * each, count);
    last = min(first + each, count);
  }
};

template <int Threads>
__device__ inline int bits_in(const uint32_t* words, const Span<Threads>& span) {
  int bits = 0;
  for (int w = span.first; w < span.last; ++w) bits += __popc(words[w]);
  return bits;
}

// Marked neurons in a block's shared memory, numbered in ascending order.
struct Marked {
  uint32_t words[words_for(kMostMarked)];
  uint16_t before[words_for(kMostMarked)];  // the number of marks in all earlier words

  // Reads the marks and returns their number. To be called by all threads of the block.
  template <int Threads>
  __device__ int read(const uint32_t* marks, int neurons) {
    const int count = words_for(neurons);
#pragma unroll 4
    for (int w = threadIdx.x; w < count; w += Threads) words[w] = written_by_others(marks + w);
    __syncthreads();
    const Span<Threads> span(count);
    int total = 0, number = sum_before<Threads>(bits_in(words, span), total);
    for (int w = span.first; w < span.last; ++w) {
      before[w] = static_cast<uint16_t>(number);
      number += __popc(words[w]);
    }
    __syncthreads();
    return total;
  }

  // Returns the neuron with a number, which must exist.
  __device__ int neuron(int number, int neurons) const {
    int first = 0, last = words_for(neurons) - 1;  // searches the last word whose first number isn't larger
    while (first < last) {
      const int middle = (first + last + 1) / 2;
      if (before[middle] <= number) first = middle;
      else last = middle - 1;
    }
    uint32_t bits = words[first];
    for (int skip = number - before[first]; skip > 0; --skip) bits &= bits - 1;
    return first * 32 + __ffs(static_cast<int>(bits)) - 1;
  }
};

}  // namespace sparseflow::cuda::contextual
