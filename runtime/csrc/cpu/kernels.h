// The interface between operators and kernels. It has plain data only: the kernels are compiled once for each
// instruction set, and of an inline function that is shared with common code the linker could pick a copy that the
// machine can't run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/types.h"

namespace sparseflow::cpu {

// y[m, n] = act(x[m, k] · Wᵀ + bias[n]) + residual[m, n]; everything except x is contiguous.
struct Linear {
  int64_t m, n, k;
  const void* x;
  int64_t x_stride;  // elements from one row of x to the next
  const void* values;
  const uint8_t* positions;
  const void* bias;      // or null
  const void* residual;  // or null
  void* y;
  DType dtype;
  Activation activation;
  int64_t block = 4;  // columns of a block of W, of which all but two are kept: 4, 6 or 8
};

// The plan for one panel of rows of x: first `prepare` runs for every prepare task, then `run` for every run task.
struct Plan {
  Linear a;
  char* scratch;  // 64-byte aligned, scratch_bytes long; the caller provides it
  int64_t scratch_bytes;
  int64_t block_bytes;  // the bytes of x that stay in the first-level cache while W streams by; the caller provides it
  bool one_stream;      // a row of W at a time, as the memory likes best; the caller provides it
  int64_t local_bytes;  // the part of scratch that each concurrent call of `run` has to itself
  int64_t prepare_tasks, run_tasks;
  int64_t k_padded;             // k rounded up so that whole steps of positions may be read
  int64_t vectors, tiles;       // vectors of m, and the tiles that they are distributed to
  int64_t row_block;            // rows of W in one run task
  void (*prepare)(const Plan&, int64_t begin, int64_t end);
  void (*run)(const Plan&, int64_t begin, int64_t end, char* local);
};

// A contiguous weight [n, k] as raw bits, in elements of 2 or 4 bytes, and the columns of its blocks as above.
struct Weight {
  int64_t n, k;
  const void* data;
  int64_t element_size;
  int64_t block = 4;
};

// out[b, h, i] = Σ softmax(q[b, h, i] · k[b, h / group] · scale) · v[b, h / group], over the keys in [first, end) that
// query i sees: up to position + i, `window` of them at most, those that `keep` has. Strides are in elements; a head's
// elements lie one after the other, as all of `out` does.
struct Attention {
  const void *q, *k, *v;
  void* out;
  const bool* keep;  // [batch, keys], or null
  int64_t q_batch, q_head, q_query, k_batch, k_head, k_key, v_batch, v_head, v_key, keep_batch;
  int64_t batch, kv_heads, group, queries, width;
  int64_t first, end, position, window;  // window 0: all before
  bool positioned;                       // else all keys are seen
  float scale;
  DType dtype;
  int64_t width_padded;  // width up to a multiple of 16
  int64_t stretches;     // of kStretch keys, that each head has
  float* parts;          // [batch, kv_heads, stretches, group, queries, width_padded + 2], in between
};
constexpr int64_t kStretch = 128;  // keys of a task: their values stay in the first-level cache

// The kernels of one instruction set.
struct Kernels {
  int64_t (*panel)(const Linear&);                  // the number of rows of x for one plan
  void (*plan)(const Linear&, int threads, Plan&);  // fills everything but `scratch`
  // y = act(y + bias) + residual in place, for rows [begin, end) of y.
  void (*finish)(const Linear&, int64_t begin, int64_t end);
  // The same rows of y [m, n/2] = act(g) ⊙ u, for the halves g and u of the rows of Linear::y.
  void (*gate)(const Linear&, void* y, int64_t begin, int64_t end);
  void (*prune)(const Weight&, void* out, int64_t begin, int64_t end);
  void (*pack)(const Weight&, void* values, uint8_t* positions, int64_t begin, int64_t end);
  void (*unpack)(const void* values, const uint8_t* positions, const Weight& out, void* dst, int64_t begin, int64_t end);
  // Returns the first column of row `row` at which the check fails, or -1.
  int64_t (*not_2_4)(const Weight&, int64_t row);
  int64_t (*not_finite)(const Weight&, DType, int64_t row);
  int64_t (*attend_bytes)(const Attention&);  // of `local`
  // The parts of tasks [begin, end): stretches, those of a head one after the other.
  void (*attend)(const Attention&, int64_t begin, int64_t end, char* local);
  void (*join)(const Attention&, int64_t begin, int64_t end);  // for heads [begin, end) of keys
};

namespace plain { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512bf16 { extern const Kernels kernels; }
namespace amx { extern const Kernels kernels; }

}  // namespace sparseflow::cpu
