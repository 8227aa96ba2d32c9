// sparseflow::contextual_scores on CPU.
#include "scores.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>

namespace sparseflow::cpu::contextual {
namespace {

constexpr const char* kOp = "contextual_scores";
constexpr int64_t kFew = 128 * 1024;  // elements of a weight below which one thread is faster

Tensor scores(const Tensor& x, const Tensor& a, const Tensor& b, Maybe bias, Maybe a_scale, Maybe b_scale) {
  SF_REQUIRE(x.dim() >= 1, kOp, "x must have at least one dimension");
  const Predictor p = predictor_of(kOp, x.size(x.dim() - 1), a, b, bias, a_scale, b_scale);
  const WideRows rows(kOp, x);
  Tensor out = torch::stable::new_empty(x, {rows.all().count, p.b.rows}, torch::headeronly::ScalarType::Float);
  predict(p, rows, static_cast<float*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace

void multiply(const Matrix& matrix, const WideRows& x, const float* bias, float* out, int64_t pitch) {
  const Kernels& kernel = kernels();
  const int64_t batches = (matrix.rows + kBatch - 1) / kBatch;
  const int64_t grain = std::max<int64_t>(1, kFew / std::max<int64_t>(1, matrix.columns * kBatch));
  for (int64_t m = 0; m < x.all().count; m += kPanel)
    torch::stable::parallel_for(0, batches, grain, [&](int64_t begin, int64_t end) {
      kernel.scores(matrix, x.panel(m), bias, out + m * pitch, pitch, begin * kBatch,
                    std::min(end * kBatch, matrix.rows));
    });
}

Predictor predictor_of(const char* op, int64_t columns, const Tensor& a, const Tensor& b, const Maybe& bias,
                       const Maybe& a_scale, const Maybe& b_scale) {
  Predictor p = {matrix_of(op, "a", a, a_scale), matrix_of(op, "b", b, b_scale), nullptr};
  SF_REQUIRE(p.a.columns == columns && p.b.columns == p.a.rows, op,
             "a must be [r, " + std::to_string(columns) + "] and b [I, r], got " + shape_of(a) + " and " + shape_of(b));
  p.bias = static_cast<const float*>(
      vector_of(op, "the predictor's bias", bias, torch::headeronly::ScalarType::Float, p.b.rows));
  return p;
}

void predict(const Predictor& p, const WideRows& x, float* out) {
  const WideRows low(x.all().count, p.a.rows);
  const Wide& rows = low.all();
  std::memset(rows.data, 0, rows.count * rows.pitch * sizeof(float));
  multiply(p.a, x, nullptr, rows.data, rows.pitch);
  multiply(p.b, low, p.bias, out, p.b.rows);
}

}  // namespace sparseflow::cpu::contextual

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CPU, m) {
  m.impl("contextual_scores", TORCH_BOX(&sparseflow::cpu::contextual::scores));
}
