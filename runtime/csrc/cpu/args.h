// Arguments of the operators: what they must be, and how they become plain data.
#pragma once

#include <string>

#include "common/checks.h"
#include "kernels.h"

namespace sparseflow::cpu {

// float32, bfloat16 or float16; throws otherwise, naming `what`.
DType dtype_of(const char* op, const char* what, const Tensor& t);

// values and positions belong together and to `in_features`.
void check_packed(const char* op, const Tensor& values, const Tensor& positions, int64_t in_features);

// A [N, K] weight of a supported dtype; contiguous, copied if it must be.
Tensor weight_of(const char* op, const Tensor& weight);

Weight bits_of(const Tensor& weight);

// x with rows of contiguous elements at one distance from each other, copied if it must be.
struct Rows {
  Tensor tensor;
  int64_t count, stride;
};
Rows rows_of(const Tensor& x);

}  // namespace sparseflow::cpu
