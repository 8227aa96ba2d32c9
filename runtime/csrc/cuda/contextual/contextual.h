// Contextual MLPs on the GPU: scores of the neurons, lists of those that count, and the MLP over a list. What the
// operators and the kernels say to each other; pointers are on the device, tensors contiguous.
// Launched on `stream`, never waited for; std::runtime_error where a launch fails.
//
// H: hidden features, I: neurons, M: rows of x.
#pragma once

#include <cstdint>

#include "../../common/types.h"
#include "../layout.h"

namespace sparseflow::cuda::contextual {

constexpr int kMostMarked = 1 << 15;  // neurons, by one mask

SPARSEFLOW_BOTH constexpr int words_for(int neurons) { return (neurons + 31) / 32; }

enum class Rule : int { threshold, top_k, statistical };

// y [m, hidden] = (act(x · gateᵀ + gate_bias) ⊙ (x · upᵀ + up_bias)) · down + down_bias over the neurons that are
// listed or marked; without a gate act(x · upᵀ + up_bias) · down. Sums in fp32, in an order that the count alone
// decides. A listed neuron outside [0, intermediate) makes y NaN.
struct Mlp {
  const void* x;                                        // [m, hidden]
  const void *gate, *up, *down;                         // [intermediate, hidden] of `weights`; gate may be null
  const float *gate_scale, *up_scale, *down_scale;      // [intermediate], of int8 weights; else null
  const void *gate_bias, *up_bias, *down_bias;          // [intermediate] or [hidden] like x, or null
  const int32_t* neurons;                               // [intermediate], or one such list for each row of x
  const int32_t* count;                                 // one for each list
  const uint32_t* marks;                                // instead of a list [words_for(intermediate)], a bit a neuron
  int m, hidden, intermediate;
  bool per_row;
  bool wide;                                            // all rows may be read 16 bytes at a time
  Activation activation;
  int splits = 1;                                       // from splits_for(): blocks that share a list
  float* h = nullptr;                                   // scratch [m, intermediate]
  float* partials = nullptr;                            // scratch [splits, m, hidden]
  uint32_t* tickets = nullptr;                          // scratch [lists, strips(hidden)]
  void* y = nullptr;                                    // [m, hidden] like x
};

constexpr int kStrip = 256;  // columns of y that a block sums

SPARSEFLOW_BOTH constexpr int strips(int hidden) { return (hidden + kStrip - 1) / kStrip; }

// How many blocks should share the neurons of each of `lists` lists.
int splits_for(int hidden, int lists, int device);

void run(const Mlp& mlp, Stored weights, Stored x, int device, void* stream);

constexpr int kLongestMarking = 2048;  // k of a projection that marks

// out [m, n] = x [m, k] · weightᵀ (· scale) + bias in fp32. Or, with x in fp32, k up to `kLongestMarking` and n up to
// `kMostMarked`, a mark for each of n where the sum of any row isn't below or at the limit: a NaN is marked.
struct Projection {
  const void* x;
  const void* weight;  // [n, k]
  const float *scale, *bias;  // [n] or null
  int m, n, k;
  bool wide;
  bool early;  // the launch before this one doesn't write `weight`, nor does what it waits for
  float* out;
  uint32_t* marks = nullptr;  // [words_for(n)], instead of out
  float limit = 0;
};

void project(const Projection& projection, Stored weight, Stored x, int device, void* stream);

constexpr int kMostNeurons = 1 << 17;  // of one select()

// The ascending lists of the neurons whose scores [m, neurons] the rule selects: of all rows together, or `per_row`.
// Behind the first `count` of a list there are zeros.
struct Selection {
  const float* scores;
  int m, neurons;
  Rule rule;
  float parameter;
  bool per_row;
  uint32_t* words;  // scratch [m, words_for(neurons)]
  int32_t *list, *count;
};

void select(const Selection& selection, int device, void* stream);

}  // namespace sparseflow::cuda::contextual
