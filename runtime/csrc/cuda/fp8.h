// The kernels around an fp8 product: quantising the rows of x to e4m3, and scaling the product back. All pointers are
// on the device, aligned to 16 bytes; K and N are multiples of 8. Kernels are launched on `stream` and not waited for.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace sparseflow::cuda {

// Quantises x [m, k] in bf16 or fp16 to x8 [m, k] in e4m3 with scale [m] = max |row| / 448, NaN for a row with NaN or
// Inf.
struct Fp8Rows {
  int64_t m, k;
  const void* x;
  bool half;
  void* x8;
  float* scale;
};
void quantize_rows(const Fp8Rows& rows, void* stream);

// y [m, n] = activation(raw · w_scale[n] · x_scale[m] + bias[n]) + residual; raw is bf16, the others are bf16 or fp16.
// With `gated` y is [m, n / 2], activation(g) ⊙ u for the halves g and u of what is activated otherwise: n is then a
// multiple of 16, and there is no residual.
struct Rescaled {
  int64_t m, n;
  const void* raw;
  const float *x_scale, *w_scale;
  const void *bias, *residual;  // or null
  bool half;
  void* y;
  Activation activation;
  bool gated = false;
};
void rescale(const Rescaled& rescaled, void* stream);

// y8 in e4m3 and y_scale [m]: the rows of y as above, rounded to 16 bits and quantised as by quantize_rows. Without scales raw is
// scaled already and of the type of y. Rows of y are those that can_requantize() takes.
struct Requantized {
  int64_t m, n;
  const void* raw;
  const float *x_scale, *w_scale;  // or both null
  const void* bias;                // or null
  bool half;
  Activation activation;
  bool gated;
  void* y8;
  float* y_scale;
};
bool can_requantize(int64_t row);
void requantize(const Requantized& requantized, void* stream);

}  // namespace sparseflow::cuda
