// The interface between the kernel for many rows of x in e4m3 and its launch.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "../../common/types.h"

namespace sparseflow::cuda::wide {

constexpr int kStageK = 128;
constexpr int kChunk = 32;  // rows of y that a warp lays out at a time

struct TileCall {
  CUtensorMap values;  // of [Np/16, 2, 8, Kp/2]: with a gate the 2 are the halves of W, and 8 rows of each alternate
  CUtensorMap x;       // of [M, K]
  const uint8_t* positions;
  int64_t strip_bytes;  // of the positions of 64 rows
  int strips;           // of W
  int up_strip;         // the first strip of the gate's other half
  int m, n;             // rows and columns of y
  int stages;           // of kStageK in K
  int w_tiles, x_tiles, band;  // `band` tiles along x lie side by side in time
  int slots;
  const float *w_scale, *x_scale;  // or null, for ones
  const void *bias, *residual;  // or null
  void* y;  // [M, N], or [M, N/2] with a gate
  Activation activation;
  bool half, gated;  // whether bias, residual and y are in fp16, else in bf16; whether there is a gate
};

}  // namespace sparseflow::cuda::wide
