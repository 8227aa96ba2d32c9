// Arguments of the contextual operators: what they must be, and how they become plain data.
#pragma once

#include <optional>
#include <string>

#include "../args.h"
#include "../scratch.h"
#include "call.h"

namespace sparseflow::cpu::contextual {

using Maybe = std::optional<Tensor>;

// The tensors of an MLP as the operators take them.
struct Weights {
  const Maybe& gate;
  const Tensor& up;
  const Tensor& down_t;
  const Maybe &gate_scale, &up_scale, &down_scale, &gate_bias, &up_bias, &down_bias;
};

// Checked against each other and x [..., H].
Mlp mlp_of(const char* op, const Tensor& x, const Weights& w, const std::string& activation);

// A contiguous matrix of a floating type or int8, with its scales.
Matrix matrix_of(const char* op, const char* name, const Tensor& t, const Maybe& scale);

// The same without scales: those of `column_linear` belong to its columns.
Matrix rows_in_place(const char* op, const char* name, const Tensor& t);

// t's data where there is one: of that type, contiguous, [length].
const void* vector_of(const char* op, const char* name, const Maybe& t, torch::headeronly::ScalarType, int64_t length);

// Rows of x as plain data, which is all that a tape reads of them; strides count elements.
struct Source {
  const char* data;
  DType dtype;
  int64_t count, stride, columns;
};
Source source_of(const char* op, const Rows& x);

// Rows of a tensor [..., columns], or any, in fp32, with columns to the next multiple of 64 and a line more: at powers of
// two apart the rows would meet in a few lines of the cache.
class WideRows {
 public:
  WideRows(int64_t count, int64_t columns);
  WideRows(const char* op, const Tensor& x);
  explicit WideRows(const Source& x);
  const Wide& all() const { return wide_; }
  Wide panel(int64_t first) const;  // at most kPanel of them from `first` on

 private:
  WideRows(const char* op, const Rows& x);

  Wide wide_;
  Scratch scratch_;
};

}  // namespace sparseflow::cpu::contextual
