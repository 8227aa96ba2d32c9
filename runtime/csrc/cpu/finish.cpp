#include "finish.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "isa.h"

namespace sparseflow::cpu {
namespace {

constexpr int64_t kFew = 65536;  // elements of y below which one thread is faster

// Calls rows(a, begin, end) from several threads, for all rows of y, which `a` describes.
template <class F>
void for_rows(const Tensor& y, Activation activation, const F& rows) {
  Linear a = {};
  a.n = y.size(y.dim() - 1);
  if (a.n == 0) return;
  a.m = y.numel() / a.n;
  a.y = y.mutable_data_ptr();
  a.dtype = dtype_of("linear", "y", y);
  a.activation = activation;
  torch::stable::parallel_for(0, a.m, std::max<int64_t>(1, kFew / a.n),
                              [&](int64_t begin, int64_t end) { rows(a, begin, end); });
}

}  // namespace

void finish(const Tensor& y, const std::optional<Tensor>& residual, Activation activation) {
  if (activation == Activation::none && !residual) return;
  const Kernels& kernel = kernels();
  for_rows(y, activation, [&](Linear a, int64_t begin, int64_t end) {
    a.residual = residual ? residual->const_data_ptr() : nullptr;
    kernel.finish(a, begin, end);
  });
}

void gate(const Tensor& whole, Activation activation, const Tensor& y) {
  const Kernels& kernel = kernels();
  void* out = y.mutable_data_ptr();
  for_rows(whole, activation, [&](const Linear& a, int64_t begin, int64_t end) { kernel.gate(a, out, begin, end); });
}

Tensor gated(const Tensor& whole, Activation activation) {
  const Tensor y = torch::stable::new_empty(whole, sizes_with_last(whole, whole.size(whole.dim() - 1) / 2));
  gate(whole, activation, y);
  return y;
}

}  // namespace sparseflow::cpu
