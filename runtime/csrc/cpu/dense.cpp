#include "dense.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <string>

#include "common/aten.h"
#include "finish.h"
#include "isa.h"
#include "scratch.h"

namespace sparseflow::cpu {
namespace {

// The bytes of W that are decompressed at a time, which the scratch pool keeps.
constexpr int64_t kChunkBytes = 32 << 20;

Tensor aten_linear(const Tensor& x, const Tensor& w, const std::optional<Tensor>& bias) {
  return call_aten("aten::linear", "", x, w, bias);
}

// Decompresses rows [row, row + rows) of W into `scratch`.
Tensor unpack_rows(const Tensor& values, const Tensor& positions, int64_t k, int64_t block, int64_t row, int64_t rows,
                   char* scratch) {
  const Weight w = {rows, k, scratch, static_cast<int64_t>(values.element_size()), block};
  const char* v = static_cast<const char*>(values.const_data_ptr()) + row * values.size(1) * w.element_size;
  const auto* p = static_cast<const uint8_t*>(positions.const_data_ptr()) + row * positions.size(1);
  const Kernels& kernel = kernels();
  torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    kernel.unpack(v, p, w, scratch + begin * k * w.element_size, begin, end);
  });
  return torch::stable::from_blob(scratch, {rows, k}, {k, 1}, values.device(), values.scalar_type());
}

// Returns columns [row, row + rows) of `t`, viewed as a matrix with `n` columns and detached.
Tensor columns_of(const Tensor& t, int64_t n, int64_t row, int64_t rows) {
  auto* data = static_cast<char*>(t.mutable_data_ptr()) + row * static_cast<int64_t>(t.element_size());
  return torch::stable::from_blob(data, {static_cast<int64_t>(t.numel()) / n, rows}, {n, 1}, t.device(), t.scalar_type());
}

// Returns x · Wᵀ + bias. W is decompressed in chunks of rows, and each chunk's product is written to its columns of y.
Tensor unpacked_linear(const Tensor& x_, const Tensor& values, const Tensor& positions,
                       const std::optional<Tensor>& bias, int64_t k, int64_t block) {
  const int64_t n = values.size(0), row_bytes = std::max<int64_t>(1, k * values.element_size());
  const int64_t chunk = std::min(std::max<int64_t>(n, 1), std::max<int64_t>(64, kChunkBytes / row_bytes / 64 * 64));
  const Scratch scratch(chunk * row_bytes);
  if (chunk >= n) return aten_linear(x_, unpack_rows(values, positions, k, block, 0, n, scratch.data()), bias);
  Tensor y = torch::stable::new_empty(x_, sizes_with_last(x_, n));
  if (y.numel() == 0) return y;
  const Tensor contiguous = torch::stable::contiguous(x_), x = columns_of(contiguous, k, 0, k);
  for (int64_t row = 0; row < n; row += chunk) {
    const int64_t rows = std::min(chunk, n - row);
    std::optional<Tensor> part;
    if (bias) part = torch::stable::narrow(const_cast<Tensor&>(*bias), 0, row, rows);
    call_aten("aten::linear", "out", x, unpack_rows(values, positions, k, block, row, rows, scratch.data()), part,
              columns_of(y, n, row, rows));
  }
  return y;
}

// Computes y = act(y) in place, by torch's operators where they are the faster ones: a layer that runs dense is as fast as
// the model's own was. Ours end products whose sums are still at hand.
void activate(const Tensor& y, Activation activation) {
  switch (activation) {
    case Activation::relu: call_aten("aten::relu_", "", y); break;
    case Activation::silu: call_aten("aten::silu_", "", y); break;
    case Activation::gelu: call_aten("aten::gelu_", "", y, std::string("none")); break;
    default: finish(y, std::nullopt, activation);
  }
}

}  // namespace

Tensor dense_linear(const Tensor& x, const Tensor& values, const Tensor& positions, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& residual, int64_t k, Activation activation,
                    const std::optional<Tensor>& dense, int64_t block) {
  const Tensor y = torch::stable::contiguous(dense ? aten_linear(x, *dense, bias)
                                                   : unpacked_linear(x, values, positions, bias, k, block));
  // With a residual, a sum in 16 bits is rounded once.
  if (residual) finish(y, residual, activation);
  else activate(y, activation);
  return y;
}

}  // namespace sparseflow::cpu
