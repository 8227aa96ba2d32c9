// The interface between the kernel for many rows of x in e4m3 and its launch.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "../../common/types.h"

namespace sparseflow::cuda::fp8_tiles {

struct TileCall {
  CUtensorMap values;  // of [Np/16, 2, 8, Kp/2]: with a gate the 2 are the halves of W, and 8 rows of each alternate
  CUtensorMap x;       // of [M, K]
  CUtensorMap y;       // of [M, N], or [M, N/2] with a gate
  const uint8_t* positions;
  int64_t strip_bytes;  // of the positions of 64 rows
  int strips;           // of W
  int up_strip;         // the first strip of the gate's other half
  int m, n;             // rows and columns of y
  int stages;           // of kStageK in K
  int w_tiles, x_tiles, band;  // tiles of a cluster; `band` of them along x lie side by side in time
  int slots;
  const float *w_scale, *x_scale;
  const void *bias, *residual;  // or null
  Activation activation;
};

}  // namespace sparseflow::cuda::fp8_tiles
