// Layer norms between products: what is added to the stream before, and what scales, shifts and quantises the result, in one
// kernel that holds a row. All pointers are on the device, aligned to 16 bytes; tensors are bf16 where nothing else is said.
#pragma once

#include <cstdint>

namespace sparseflow::cuda {

// A vector [k] for each `tokens` rows, `stride` elements apart (0: one for all); or null.
struct PerBatch {
  const void* first;
  int64_t stride;
};

// sum [m, k] = x + gate ⊙ y, or x; out = layer_norm(sum) · weight + bias, · factor + shift.
struct NormedRows {
  int64_t m, k, tokens;
  const void* x;
  const void* y;                    // or null
  const float *y_scale, *w_scale;   // [m] and [k], or null: of a product in fp8 that is not scaled yet
  const void* y_bias;               // [k], or null: added after scaling
  PerBatch gate, factor, shift;
  const void *weight, *bias;        // [k], or null
  float eps;
  void* sum;                        // null without y
  void* out;                        // bf16, or e4m3 where there is a scale for each row
  float* scale;
};
// Rows that the kernel holds; k is a multiple of 8.
constexpr int64_t kLongestNormedRow = 8192;
void norm_rows(const NormedRows& rows, void* stream);

}  // namespace sparseflow::cuda
