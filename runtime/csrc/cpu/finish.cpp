#include "finish.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "isa.h"

namespace sparseflow::cpu {
namespace {

constexpr int64_t kFew = 65536;  // elements of y below which one thread is faster

// y as rows; none if it has no columns.
Linear rows_of_y(const Tensor& y, Activation activation) {
  Linear a = {};
  a.n = y.size(y.dim() - 1);
  a.m = a.n ? y.numel() / a.n : 0;
  a.y = y.mutable_data_ptr();
  a.dtype = dtype_of("linear", "y", y);
  a.activation = activation;
  return a;
}

// Calls rows(begin, end) from several threads, for all rows of y.
template <class F>
void for_rows(const Linear& a, const F& rows) {
  if (a.m) torch::stable::parallel_for(0, a.m, std::max<int64_t>(1, kFew / a.n), rows);
}

}  // namespace

void finish(const Tensor& y, const std::optional<Tensor>& residual, Activation activation) {
  if (activation == Activation::none && !residual) return;
  Linear a = rows_of_y(y, activation);
  a.residual = residual ? residual->const_data_ptr() : nullptr;
  for_rows(a, [&](int64_t begin, int64_t end) { kernels().finish(a, begin, end); });
}

std::function<void()> gating(const Tensor& whole, Activation activation, const Tensor& y) {
  return [a = rows_of_y(whole, activation), out = y.mutable_data_ptr()] {
    for_rows(a, [&](int64_t begin, int64_t end) { kernels().gate(a, out, begin, end); });
  };
}

Tensor gated(const Tensor& whole, Activation activation) {
  const Tensor y = torch::stable::new_empty(whole, sizes_with_last(whole, whole.size(whole.dim() - 1) / 2));
  gating(whole, activation, y)();
  return y;
}

}  // namespace sparseflow::cpu
