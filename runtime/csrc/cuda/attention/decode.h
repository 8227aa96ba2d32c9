// Attention of few queries over a cache: softmax(q · kᵀ · scale) · v, in one launch, split over the keys.
#pragma once

#include <cstdint>

#include "../../common/types.h"

namespace sparseflow::cuda::attention {

constexpr int kMostRows = 16;      // queries of one head of keys: those of its group of heads, times the positions
constexpr int kMostCluster = 16;   // blocks that share a head's keys: more form no cluster

// q and out [batch, kv_heads * group, queries, dim], k and v [batch, kv_heads, capacity, dim], of one dtype of 16 bits. The
// last dimension is contiguous; the strides of the others are in elements. Query i sees key n where
// n <= *position + i, n > *position + i - window and keep[batch, n], each where it is given. out is contiguous.
struct Decode {
  const void *q, *k, *v;
  void* out;
  const int64_t* position;  // on the device; null: every key is there
  const bool* keep;         // [batch, capacity] or null
  int64_t q_batch, q_head, q_query, k_batch, k_head, k_key, v_batch, v_head, v_key, keep_batch;
  int batch, kv_heads, group, queries, capacity;
  int window;               // 0: none
  float scale;
};

// Launches on `stream`, for dim 64, 96, 128 or 256 and a dtype of 16 bits; throws std::runtime_error for others, and where
// the launch fails. Keys, values and queries start at multiples of 16 bytes, as all their rows do.
void run(const Decode& decode, int dim, DType dtype, int device, void* stream);

}  // namespace sparseflow::cuda::attention
