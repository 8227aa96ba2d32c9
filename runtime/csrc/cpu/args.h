// Checks of the operators' arguments, and their conversion to plain data.
#pragma once

#include <string>

#include "common/checks.h"
#include "kernels.h"

namespace sparseflow::cpu {

// Returns the dtype of a tensor; throws, naming `what`, unless it is float32, bfloat16 or float16.
DType dtype_of(const char* op, const char* what, const Tensor& t);

// Throws unless values, positions and `in_features` fit each other.
void check_packed(const char* op, const Tensor& values, const Tensor& positions, int64_t in_features);

// Returns a weight [N, K], copied if it isn't contiguous; throws unless its dtype is supported.
Tensor weight_of(const char* op, const Tensor& weight);

Weight bits_of(const Tensor& weight);

// x as rows of contiguous elements at a constant stride, copied if necessary.
struct Rows {
  Tensor tensor;
  int64_t count, stride;
};
Rows rows_of(const Tensor& x);

}  // namespace sparseflow::cpu
