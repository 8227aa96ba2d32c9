// What the operators and the kernels say to each other. Plain data only: the kernels are compiled once for
// each instruction set, and an inline function shared with common code would let the linker pick the copy
// that the machine can't run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/types.h"

namespace sparseflow::cpu {

// y[m, n] = act(x[m, k] · Wᵀ + bias[n]) + residual[m, n]; everything but x is contiguous.
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
};

// How one panel of rows of x is multiplied: first `prepare` for every prepare task, then `run` for every run task.
struct Plan {
  Linear a;
  char* scratch;  // 64-byte aligned, scratch_bytes long; the caller provides it
  int64_t scratch_bytes;
  int64_t block_bytes;  // of x that the first-level cache keeps beside what streams by; the caller provides it
  int64_t local_bytes;  // of scratch that every concurrent call of `run` has to itself
  int64_t prepare_tasks, run_tasks;
  int64_t k_padded;             // k rounded up so that whole steps of positions may be read
  int64_t vectors, tiles;       // vectors of m, and the tiles they are dealt to
  int64_t row_block;            // rows of W in one run task
  void (*prepare)(const Plan&, int64_t begin, int64_t end);
  void (*run)(const Plan&, int64_t begin, int64_t end, char* local);
};

// A weight as bits: 2-byte or 4-byte elements, [n, k], contiguous.
struct Weight {
  int64_t n, k;
  const void* data;
  int64_t element_size;
};

// The kernels of one instruction set.
struct Kernels {
  int64_t (*panel)(const Linear&);                  // rows of x that one plan should take
  void (*plan)(const Linear&, int threads, Plan&);  // fills everything but `scratch`
  // y = act(y + bias) + residual in place, for rows [begin, end) of y.
  void (*finish)(const Linear&, int64_t begin, int64_t end);
  // The same rows of y [m, n/2] = act(g) ⊙ u, for the halves g and u of the rows of Linear::y.
  void (*gate)(const Linear&, void* y, int64_t begin, int64_t end);
  void (*prune)(const Weight&, void* out, int64_t begin, int64_t end);
  void (*pack)(const Weight&, void* values, uint8_t* positions, int64_t begin, int64_t end);
  void (*unpack)(const void* values, const uint8_t* positions, const Weight& out, void* dst, int64_t begin, int64_t end);
  // First column in row `row` at which the check fails, or -1.
  int64_t (*not_2_4)(const Weight&, int64_t row);
  int64_t (*not_finite)(const Weight&, DType, int64_t row);
};

namespace plain { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512bf16 { extern const Kernels kernels; }
namespace amx { extern const Kernels kernels; }

}  // namespace sparseflow::cpu
