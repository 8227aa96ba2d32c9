// Contextual MLPs on the GPU: scores of the neurons, lists of the selected ones, and the MLP over a list. This is the
// interface between operators and kernels. Pointers are on the device, tensors contiguous. Kernels are launched on
// `stream` and not waited for; a failing launch throws std::runtime_error.
//
// H: hidden features, I: neurons, M: rows of x.
#pragma once

#include <cstdint>

#include "../../common/types.h"
#include "../layout.h"

namespace sparseflow::cuda::contextual {

constexpr int kMostMarked = 1 << 15;  // the most neurons of a mask

SPARSEFLOW_BOTH constexpr int words_for(int neurons) { return (neurons + 31) / 32; }

enum class Rule : int { threshold, top_k, statistical };

// y [m, hidden] = (act(x · gateᵀ + gate_bias) ⊙ (x · upᵀ + up_bias)) · down + down_bias over the neurons that are
// listed or marked; without a gate, y = act(x · upᵀ + up_bias) · down + down_bias. Sums are in fp32, in an order that
// depends on the number of neurons alone. A listed neuron outside [0, intermediate) makes y NaN.
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

// Returns how many blocks should share the neurons of each of `lists` lists.
int splits_for(int hidden, int lists, int device);

void run(const Mlp& mlp, Stored weights, Stored x, int device, void* stream);

constexpr int kLongestMarking = 2048;  // k of a projection that marks

// out [m, n] = x [m, k] · weightᵀ (· scale) + bias in fp32. Alternatively, with x in fp32, k up to `kLongestMarking`
// and n up to `kMostMarked`, it marks each of the n columns in which any row exceeds the limit or is NaN.
struct Projection {
  const void* x;
  const void* weight;  // [n, k]
  const float *scale, *bias;  // [n] or null
  int m, n, k;
  bool wide;
  bool early;  // neither the previous launch nor what it waits for writes `weight`
  float* out;
  uint32_t* marks = nullptr;  // [words_for(n)], instead of out
  float limit = 0;
};

void project(const Projection& projection, Stored weight, Stored x, int device, void* stream);

constexpr int kMostNeurons = 1 << 17;  // the most neurons of a select()

// The ascending lists of the neurons that a rule selects by their scores [m, neurons]: one for the union of all rows,
// or `per_row`. The first `count` entries of a list are followed by zeros.
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
