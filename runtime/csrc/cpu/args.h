// Checks of the operators' arguments, and their conversion to plain data.
#pragma once

#include <string>

#include "common/checks.h"
#include "kernels.h"

namespace sparseflow::cpu {

// Returns the dtype of a tensor; throws, naming `what`, unless it is float32, bfloat16 or float16.
DType dtype_of(const char* op, const char* what, const Tensor& t);

// The sizes of a packed row: `kept` values, and `bytes` of positions or codes.
struct PackedRow {
  int64_t kept, bytes;
};
// Of k columns in blocks of 4, 6 or 8, all but two of which are kept.
PackedRow packed_row(int64_t k, int64_t block);

// Throws unless a packed weight with blocks of `block` columns is known, and values, positions and `in_features` fit
// each other.
void check_packed(const char* op, const Tensor& values, const Tensor& positions, int64_t in_features, int64_t block = 4);

// Returns a weight [N, K], copied if it isn't contiguous; throws unless its dtype is supported.
Tensor weight_of(const char* op, const Tensor& weight);

Weight bits_of(const Tensor& weight, int64_t block = 4);

// x as rows of contiguous elements at a constant stride, copied if necessary.
struct Rows {
  Tensor tensor;
  int64_t count, stride;
};
Rows rows_of(const Tensor& x);

}  // namespace sparseflow::cpu
