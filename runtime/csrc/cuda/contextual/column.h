// Linear layers on the GPU that leave out inputs near zero: the interface between operator and kernels. Pointers are on the
// device, tensors contiguous. Kernels are launched on `stream` and not waited for; a failing launch throws
// std::runtime_error.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../common/types.h"

namespace sparseflow::cuda::contextual {

constexpr int kMostColumnRows = 4;          // of x
constexpr int kMostColumnInputs = 1 << 16;  // K

// How a weight is stored: like x, or in 8 bits.
enum class Bytes { as_x, i8, e4m3 };

// y [m, n] = act(x' [m, k] · weight [k, n] · scale + bias) + residual, x' being x with 0 for what is smaller in magnitude
// than the threshold; all of one 16-bit dtype, or the weight in 8 bits, whose columns `scale` multiplies. With `gated` y is
// [m, n / 2], act(g) ⊙ u for the halves g and u of what is activated otherwise, without a residual. n, or half of it, is a
// multiple of 8, x and the weight are aligned to 16 bytes. Rows of the weight are read for inputs that any row of x keeps.
// Sums are in fp32, in an order that depends on which these are, and on nothing else.
struct Columns {
  const void* x;  // [m, pieces · 8], the columns behind k unused
  const void* weight;
  const float* scale;  // [n] beside a weight in 8 bits, else null
  const void *bias, *residual;  // [n], [m, n], or null
  void* y;
  uint32_t limit;  // the bits of the least magnitude that is kept, twice
  int m, k, n, pieces;
  Activation activation = Activation::none;
  bool gated = false;
  float* partials = nullptr;  // column_scratch() bytes
  // Set at the launch.
  uint64_t* counters = nullptr;  // behind the partials
  uint64_t tag = 0;              // of the counters; its low byte is 0
};

// The bits of the least magnitude of a dtype that isn't below a threshold, twice.
uint32_t limit_for(float threshold, bool half);

// Whether the kernel runs on this device and its grid has room for this product; only its sizes are read.
bool takes(const Columns& p, int device);

// Returns the bytes that run() needs in `partials`.
int64_t column_scratch(const Columns& p, int device);

void run(const Columns& p, bool half, Bytes weight, int device, void* stream);

// y = x with 0 for what is smaller in magnitude than the threshold.
struct Mask {
  const void* x;
  void* y;
  int64_t size;
  float threshold;
};

void mask(const Mask& p, Stored x, int device, void* stream);

}  // namespace sparseflow::cuda::contextual
