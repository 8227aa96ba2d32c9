// What an fp8 product has around it: rows of x brought to e4m3, and the product brought back by their scales.
// All pointers on the device, aligned to 16 bytes; K and N multiples of 8. Launched on `stream`, never waited for.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace sparseflow::cuda {

// x [m, k] of bf16 or fp16 into x8 [m, k] e4m3 and scale [m] = max |row| / 448, NaN for a row with NaN or Inf.
struct Fp8Rows {
  int64_t m, k;
  const void* x;
  bool half;
  void* x8;
  float* scale;
};
void quantize_rows(const Fp8Rows& rows, void* stream);

// y [m, n] = activation(raw · w_scale[n] · x_scale[m] + bias[n]) + residual, raw in bf16, the others bf16 or fp16.
struct Rescaled {
  int64_t m, n;
  const void* raw;
  const float *x_scale, *w_scale;
  const void *bias, *residual;  // or null
  bool half;
  void* y;
  Activation activation;
};
void rescale(const Rescaled& rescaled, void* stream);

}  // namespace sparseflow::cuda
