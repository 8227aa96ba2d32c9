// sparseflow::contextual_select on CPU.
#include "select.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "../scratch.h"
#include "call.h"
#include "common/checks.h"

namespace sparseflow::cpu::contextual {
namespace {

constexpr const char* kOp = "contextual_select";

void mark_above(const float* scores, int64_t n, float limit, uint8_t* selected) {
  for (int64_t i = 0; i < n; ++i) selected[i] |= !(scores[i] <= limit);
}

// Returns the mean plus parameter · standard deviation, with sums in double.
float limit_of(const float* scores, int64_t n, double parameter) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) sum += scores[i];
  const double mean = sum / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) squares += (scores[i] - mean) * (scores[i] - mean);
  return static_cast<float>(mean + parameter * std::sqrt(squares / static_cast<double>(n)));
}

std::tuple<Tensor, Tensor> select(const Tensor& scores_, std::string rule, double parameter, bool per_row) {
  const Rule chosen = rule_of(kOp, rule, parameter);
  SF_REQUIRE(scores_.dim() == 2 && scores_.scalar_type() == torch::headeronly::ScalarType::Float, kOp,
             "scores must be float32 [M, I], got " + shape_of(scores_));
  const Tensor scores = torch::stable::contiguous(scores_);
  const int64_t rows = scores.size(0), n = scores.size(1), lists = per_row ? rows : 1;
  const auto integers = torch::headeronly::ScalarType::Int;
  const std::vector<int64_t> shape = per_row ? std::vector{rows, n} : std::vector{n};
  Tensor neurons = torch::stable::new_empty(scores, shape, integers);
  Tensor count = torch::stable::new_empty(scores, {lists}, integers);
  const auto* from = static_cast<const float*>(scores.const_data_ptr());
  auto* to = static_cast<int32_t*>(neurons.mutable_data_ptr());
  auto* counts = static_cast<int32_t*>(count.mutable_data_ptr());
  std::vector<uint8_t> selected(n);
  for (int64_t l = 0; l < lists; ++l) {
    std::fill(selected.begin(), selected.end(), 0);
    const int64_t first = per_row ? l : 0, last = per_row ? l + 1 : rows;
    for (int64_t m = first; m < last; ++m) mark(from + m * n, n, chosen, selected.data());
    counts[l] = kernels().list(selected.data(), n, to + l * n);
  }
  return {neurons, count};
}

}  // namespace

Rule rule_of(const char* op, const std::string& name, double parameter) {
  SF_REQUIRE(std::isfinite(parameter), op, "parameter must be finite");
  if (name == "threshold") return {Rule::threshold, parameter};
  if (name == "statistical") return {Rule::statistical, parameter};
  SF_REQUIRE(name == "top_k", op, "rule must be threshold, top_k or statistical, got '" + name + "'");
  SF_REQUIRE(parameter >= 0 && parameter == std::floor(parameter), op,
             "top_k takes a whole number that is not negative");
  return {Rule::top_k, std::min(parameter, 0x1p31)};
}

void mark(const float* scores, int64_t n, const Rule& rule, uint8_t* selected) {
  if (n == 0) return;
  if (rule.kind == Rule::top_k) {
    const Scratch keys(n * static_cast<int64_t>(sizeof(uint32_t)));
    kernels().mark_largest(scores, n, std::min(static_cast<int64_t>(rule.parameter), n),
                           reinterpret_cast<uint32_t*>(keys.data()), selected);
    return;
  }
  mark_above(scores, n,
             rule.kind == Rule::threshold ? static_cast<float>(rule.parameter) : limit_of(scores, n, rule.parameter),
             selected);
}

}  // namespace sparseflow::cpu::contextual

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CPU, m) {
  m.impl("contextual_select", TORCH_BOX(&sparseflow::cpu::contextual::select));
}
