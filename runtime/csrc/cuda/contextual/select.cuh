// From scores to ascending lists. A block for each row marks the selected neurons by a bit each; the bits of a row, or
// those of all rows combined, become a list. Include it after instructions.cuh or, on the host, emulator.h.
#pragma once

#include "marks.cuh"

namespace sparseflow::cuda::contextual {

constexpr int kSelectThreads = 1024, kSelectWarps = kSelectThreads / 32;
constexpr int kMostWords = words_for(kMostNeurons);

// Calls what(neuron, score) for each score of a row, and done(word, bits) with the results; run by whole warps.
template <class F, class G>
__device__ inline void for_each_word(const float* scores, int neurons, F what, G done) {
  constexpr int ahead = 16;  // words that a warp loads at once
  const int lane = threadIdx.x % 32, count = words_for(neurons);
  for (int first = threadIdx.x / 32; first < count; first += ahead * kSelectWarps) {
    float held[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int neuron = (first + i * kSelectWarps) * 32 + lane;
      held[i] = neuron < neurons ? scores[neuron] : 0;
    }
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      const int w = first + i * kSelectWarps;
      if (w >= count) break;
      const uint32_t bits = __ballot_sync(~0u, w * 32 + lane < neurons && what(held[i]));
      if (lane == 0) done(w, bits);
    }
  }
}

// Returns the mean plus `parameter` standard deviations, computed in double.
__device__ inline float statistical_limit(const Selection& p, const float* scores) {
  double sum = 0, mean = 0, squares = 0, variance = 0;
  for (int i = threadIdx.x; i < p.neurons; i += kSelectThreads) sum += scores[i];
  sum_before<kSelectThreads>(sum, mean);
  mean /= p.neurons;
  for (int i = threadIdx.x; i < p.neurons; i += kSelectThreads) squares += (scores[i] - mean) * (scores[i] - mean);
  sum_before<kSelectThreads>(squares, variance);
  return static_cast<float>(mean + double(p.parameter) * sqrt(variance / p.neurons));
}

// Maps scores to integers of the same order; NaN has the rank of +inf, and −0 that of 0.
__device__ inline uint32_t rank_of(float score) {
  const uint32_t bits = isnan(score) ? 0x7f800000u : score == 0 ? 0u : __float_as_uint(score);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Cut {
  uint32_t rank;  // the least rank that is selected
  int equal;      // how many scores of that rank are selected
};

// Returns the k-th largest rank, 0 < k ≤ neurons, by a radix selection with eight bits at a time.
__device__ inline Cut cut_at(const float* scores, int neurons, int k) {
  __shared__ int seen[256];
  __shared__ Cut cut;
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    if (threadIdx.x < 256) seen[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < neurons; i += kSelectThreads) {
      const uint32_t rank = rank_of(scores[i]);
      if (shift == 24 || rank >> (shift + 8) == prefix) atomicAdd(&seen[rank >> shift & 255], 1);
    }
    __syncthreads();
    // Thread t has the digit 255 − t, so that threads before it have larger ranks.
    const int here = threadIdx.x < 256 ? seen[255 - threadIdx.x] : 0;
    int total = 0;
    const int higher = sum_before<kSelectThreads>(here, total);
    if (higher < k && k <= higher + here) cut = {prefix << 8 | (255 - threadIdx.x), k - higher};
    __syncthreads();
    prefix = cut.rank, k = cut.equal;
  }
  return {prefix, k};
}

// Returns the lowest set bits, at most `n` of them.
__device__ inline uint32_t lowest(uint32_t bits, int n) {
  uint32_t kept = 0;
  for (; n > 0 && bits; --n) {
    const uint32_t bit = bits & (0u - bits);
    kept |= bit;
    bits ^= bit;
  }
  return kept;
}

// Marks the k largest scores, of equal ones those of lower neurons, and every NaN.
__device__ inline void mark_top(const Selection& p, const float* scores, uint32_t* chosen, uint32_t* equal) {
  const int k = static_cast<int>(fminf(fmaxf(p.parameter, 0), float(p.neurons)));
  const Cut cut = k > 0 ? cut_at(scores, p.neurons, k) : Cut{~0u, 0};
  for_each_word(scores, p.neurons, [&](float s) { return isnan(s) || rank_of(s) > cut.rank; },
                [&](int w, uint32_t bits) { chosen[w] = bits; });
  for_each_word(scores, p.neurons, [&](float s) { return rank_of(s) == cut.rank; },
                [&](int w, uint32_t bits) { equal[w] = bits; });
  __syncthreads();
  const Span<kSelectThreads> span(words_for(p.neurons));
  int total = 0, before = sum_before<kSelectThreads>(bits_in(equal, span), total);
  for (int w = span.first; w < span.last; ++w) {
    chosen[w] |= lowest(equal[w], cut.equal - before);
    before += __popc(equal[w]);
  }
}

__device__ inline void mark(const Selection& p, int row, uint32_t* chosen, uint32_t* scratch) {
  const float* scores = p.scores + int64_t(row) * p.neurons;
  if (p.rule == Rule::top_k) return mark_top(p, scores, chosen, scratch);
  const float limit = p.rule == Rule::threshold ? p.parameter : statistical_limit(p, scores);
  // Negated, so that NaN is selected.
  for_each_word(scores, p.neurons, [&](float s) { return !(s <= limit); },
                [&](int w, uint32_t bits) { chosen[w] = bits; });
}

// Writes the list of the selected neurons, followed by zeros, and their number.
__device__ inline void write_list(const Selection& p, const uint32_t* chosen, uint32_t* before, int which) {
  __syncthreads();
  const int count = words_for(p.neurons), lane = threadIdx.x % 32;
  const Span<kSelectThreads> span(count);
  int total = 0, place = sum_before<kSelectThreads>(bits_in(chosen, span), total);
  for (int w = span.first; w < span.last; ++w) {
    before[w] = place;
    place += __popc(chosen[w]);
  }
  if (threadIdx.x == 0) p.count[which] = total;
  __syncthreads();
  int32_t* list = p.list + int64_t(which) * p.neurons;
#pragma unroll 4
  for (int w = threadIdx.x / 32; w < count; w += kSelectWarps)
    if (chosen[w] >> lane & 1) list[before[w] + __popc(chosen[w] & ((1u << lane) - 1))] = w * 32 + lane;
  for (int i = total + threadIdx.x; i < p.neurons; i += kSelectThreads) list[i] = 0;
}

// One block for each row of scores. It also writes the row's list, unless several rows share one.
__global__ void __launch_bounds__(kSelectThreads) select_rows(const Selection p) {
  __shared__ uint32_t chosen[kMostWords], scratch[kMostWords];
  wait_for_previous();
  let_next_start();
  const int row = blockIdx.x, count = words_for(p.neurons);
  mark(p, row, chosen, scratch);
  if (p.per_row || p.m == 1) return write_list(p, chosen, scratch, row);
  __syncthreads();
  for (int w = threadIdx.x; w < count; w += kSelectThreads) p.words[int64_t(row) * count + w] = chosen[w];
}

// One block, launched after select_rows, which writes the list of all rows.
__global__ void __launch_bounds__(kSelectThreads) unite(const Selection p) {
  __shared__ uint32_t chosen[kMostWords], scratch[kMostWords];
  wait_for_previous();
  let_next_start();
  const int count = words_for(p.neurons);
  for (int w = threadIdx.x; w < count; w += kSelectThreads) {
    uint32_t bits = 0;
    for (int row = 0; row < p.m; ++row) bits |= p.words[int64_t(row) * count + w];
    chosen[w] = bits;
  }
  write_list(p, chosen, scratch, 0);
}

}  // namespace sparseflow::cuda::contextual
