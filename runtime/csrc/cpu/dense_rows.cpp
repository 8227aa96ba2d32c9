// sparseflow::dense_rows on CPU: a dense product for few rows of x, at the pace of reading the weight.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>

#include "args.h"
#include "contextual/operands.h"
#include "contextual/scores.h"
#include "isa.h"
#include "tape.h"

namespace sparseflow::cpu {
namespace {

constexpr const char* kOp = "dense_rows";

// y = x · Wᵀ + bias, in x's dtype.
void multiply(const contextual::Source& x, const contextual::Matrix& matrix, const void* bias, char* y) {
  const contextual::WideRows rows(x), sums(x.count, matrix.rows);
  contextual::multiply(matrix, rows, nullptr, sums.all().data, sums.all().pitch);
  const int64_t row_bytes = matrix.rows * (x.dtype == DType::f32 ? 4 : 2);
  for (int64_t m = 0; m < x.count; ++m)
    contextual::kernels().finish(sums.all().data + m * sums.all().pitch, 1, 0, bias, x.dtype, matrix.rows,
                                 y + m * row_bytes);
}

// The rows of the weight stream by once for each panel of x, as those of a predictor do; sums are in fp32.
Tensor dense_rows(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  SF_REQUIRE(x.dim() >= 1 && weight.dim() == 2 && x.size(x.dim() - 1) == weight.size(1), kOp,
             "x must be [..., K] and the weight [N, K], got " + shape_of(x) + " and " + shape_of(weight));
  SF_REQUIRE(x.scalar_type() == weight.scalar_type(), kOp, "x and the weight must have one dtype");
  contextual::Matrix matrix = contextual::matrix_of(kOp, "the weight", weight, std::nullopt);
  matrix.one_stream = reads_one_stream();
  const void* added = contextual::vector_of(kOp, "bias", bias, x.scalar_type(), matrix.rows);
  Tensor y = torch::stable::new_empty(x, sizes_with_last(x, matrix.rows));
  auto* out = static_cast<char*>(y.mutable_data_ptr());
  const Rows rows = rows_of(x);
  if (rows.tensor.const_data_ptr() != x.const_data_ptr()) spoil_tape("an input of a dense layer doesn't lie in one piece");
  const contextual::Source source = contextual::source_of(kOp, rows);
  perform([=, held = std::array{rows.tensor, weight, bias.value_or(weight), y}] {  // copies of the tensors hold their memory
    multiply(source, matrix, added, out);
  });
  return y;
}

}  // namespace
}  // namespace sparseflow::cpu

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CPU, m) { m.impl("dense_rows", TORCH_BOX(&sparseflow::cpu::dense_rows)); }
