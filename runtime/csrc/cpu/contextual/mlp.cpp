// sparseflow::contextual_mlp on CPU, and with a predictor in the same call.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "operands.h"
#include "scores.h"
#include "select.h"

namespace sparseflow::cpu::contextual {
namespace {

constexpr int64_t kFew = 64 * 1024;  // elements of weights below which one thread is faster

// One list of neurons for all rows of x, or one for each.
struct Lists {
  const int32_t* neurons;
  int64_t pitch;                // from one list to the next
  std::vector<int64_t> counts;  // one, or one for each row of x
};

// Adds part `part` of `parts` of a list; parts are whole batches, except the last.
void add_part(const Mlp& c, const Wide& x, const int32_t* neurons, int64_t count, int64_t part, int64_t parts,
              const Wide& sums) {
  const int64_t batches = (count + kBatch - 1) / kBatch;
  const int64_t begin = batches * part / parts * kBatch, end = std::min(batches * (part + 1) / parts * kBatch, count);
  if (begin < end) kernels().mlp(c, x, neurons + begin, end - begin, sums);
}

// Runs one panel of x. Each thread adds up the neurons of its part, then the parts are added in order.
void run_panel(const Mlp& c, const Wide& x, const Lists& lists, int64_t first, const void* down_bias, char* y) {
  const bool per_row = lists.counts.size() > 1;
  int64_t work = 0;
  for (const int64_t count : lists.counts) work += count * c.up.columns;
  const int64_t parts = std::clamp<int64_t>(work / kFew, 1, torch::stable::get_num_threads());
  const int64_t size = c.dtype == DType::f32 ? 4 : 2, columns = c.up.columns;
  const WideRows sums(parts * x.count, columns);
  const int64_t stride = x.count * sums.all().pitch;
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      Wide own = {sums.all().data + part * stride, x.count, sums.all().pitch};
      std::memset(own.data, 0, stride * sizeof(float));
      if (!per_row) {
        add_part(c, x, lists.neurons, lists.counts[0], part, parts, own);
        continue;
      }
      for (int64_t m = 0; m < x.count; ++m)
        add_part(c, {x.data + m * x.pitch, 1, x.pitch}, lists.neurons + (first + m) * lists.pitch,
                 lists.counts[first + m], part, parts, {own.data + m * own.pitch, 1, own.pitch});
    }
  });
  for (int64_t m = 0; m < x.count; ++m)
    kernels().finish(sums.all().data + m * sums.all().pitch, parts, stride, down_bias, c.dtype, columns,
                     y + (first + m) * columns * size);
}

Tensor run(const Mlp& c, const Tensor& x, const WideRows& rows, const Lists& lists, const Maybe& down_bias) {
  const auto sizes = x.sizes();
  Tensor y = torch::stable::new_empty(x, std::vector<int64_t>(sizes.begin(), sizes.end()));
  if (y.numel() == 0) return y;
  for (int64_t m = 0; m < rows.all().count; m += kPanel)
    run_panel(c, rows.panel(m), lists, m, down_bias ? down_bias->const_data_ptr() : nullptr,
              static_cast<char*>(y.mutable_data_ptr()));
  return y;
}

// Returns the caller's lists after checking every entry, because entries become addresses.
Lists lists_of(const char* op, const Tensor& neurons, const Tensor& count, int64_t rows, int64_t intermediate) {
  using torch::headeronly::ScalarType;
  const bool per_row = neurons.dim() == 2;
  SF_REQUIRE(neurons.scalar_type() == ScalarType::Int && count.scalar_type() == ScalarType::Int, op,
             "neurons and count must be int32");
  SF_REQUIRE(
      (neurons.dim() == 1 || (per_row && neurons.size(0) == rows)) && neurons.is_contiguous(), op,
      "neurons must be contiguous, [I] or [M, I] with M = " + std::to_string(rows) + ", got " + shape_of(neurons));
  const int64_t pitch = neurons.size(neurons.dim() - 1), number = per_row ? rows : 1;
  SF_REQUIRE(count.dim() == 1 && count.size(0) == number && count.is_contiguous(), op,
             "count must be [" + std::to_string(number) + "], got " + shape_of(count));
  Lists lists = {static_cast<const int32_t*>(neurons.const_data_ptr()), pitch, std::vector<int64_t>(number)};
  const auto* counts = static_cast<const int32_t*>(count.const_data_ptr());
  for (int64_t l = 0; l < number; ++l) {
    lists.counts[l] = std::clamp<int64_t>(counts[l], 0, pitch);
    uint32_t largest = 0;  // as unsigned, negative entries are larger than all others
    for (int64_t i = 0; i < lists.counts[l]; ++i)
      largest = std::max(largest, static_cast<uint32_t>(lists.neurons[l * pitch + i]));
    SF_REQUIRE(lists.counts[l] == 0 || largest < intermediate, op,
               "neurons must be 0 … " + std::to_string(intermediate - 1) + ", got " +
                   std::to_string(static_cast<int32_t>(largest)));
  }
  return lists;
}

Tensor contextual_mlp(const Tensor& x, Maybe gate, const Tensor& up, const Tensor& down_t, Maybe gate_scale,
                      Maybe up_scale, Maybe down_scale, Maybe gate_bias, Maybe up_bias, Maybe down_bias,
                      const Tensor& neurons, const Tensor& count, std::string activation) {
  constexpr const char* kOp = "contextual_mlp";
  const Weights w = {gate, up, down_t, gate_scale, up_scale, down_scale, gate_bias, up_bias, down_bias};
  const Mlp c = mlp_of(kOp, x, w, activation);
  const WideRows rows(kOp, x);
  return run(c, x, rows, lists_of(kOp, neurons, count, rows.all().count, c.up.rows), down_bias);
}

// Selects neurons into `neurons`, which has one list of I entries, or one for each row.
Lists select(const float* scores, int64_t rows, int64_t n, const Rule& rule, bool per_row, int32_t* neurons) {
  Lists lists = {neurons, n, std::vector<int64_t>(per_row ? rows : 1)};
  std::vector<uint8_t> selected(n);
  for (int64_t m = 0; m < rows; ++m) {
    if (per_row) std::fill(selected.begin(), selected.end(), 0);
    mark(scores + m * n, n, rule, selected.data());
    if (per_row) lists.counts[m] = kernels().list(selected.data(), n, neurons + m * n);
  }
  if (!per_row) lists.counts[0] = kernels().list(selected.data(), n, neurons);
  return lists;
}

Tensor contextual_mlp_predicted(const Tensor& x, Maybe gate, const Tensor& up, const Tensor& down_t, Maybe gate_scale,
                                Maybe up_scale, Maybe down_scale, Maybe gate_bias, Maybe up_bias, Maybe down_bias,
                                const Tensor& a, const Tensor& b, Maybe bias, Maybe a_scale, Maybe b_scale,
                                std::string rule, double parameter, std::string activation, bool per_row) {
  constexpr const char* kOp = "contextual_mlp_predicted";
  const Weights w = {gate, up, down_t, gate_scale, up_scale, down_scale, gate_bias, up_bias, down_bias};
  const Mlp c = mlp_of(kOp, x, w, activation);
  const Predictor p = predictor_of(kOp, c.up.columns, a, b, bias, a_scale, b_scale);
  SF_REQUIRE(p.b.rows == c.up.rows, kOp,
             "the predictor scores " + std::to_string(p.b.rows) + " neurons of " + std::to_string(c.up.rows));
  const Rule chosen = rule_of(kOp, rule, parameter);
  const WideRows rows(kOp, x);
  const int64_t m = rows.all().count, n = c.up.rows;
  const Scratch scores(m * n * static_cast<int64_t>(sizeof(float)));
  const Scratch neurons((per_row ? m : 1) * n * static_cast<int64_t>(sizeof(int32_t)));
  auto* scored = reinterpret_cast<float*>(scores.data());
  predict(p, rows, scored);
  return run(c, x, rows, select(scored, m, n, chosen, per_row, reinterpret_cast<int32_t*>(neurons.data())), down_bias);
}

}  // namespace
}  // namespace sparseflow::cpu::contextual

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CPU, m) {
  m.impl("contextual_mlp", TORCH_BOX(&sparseflow::cpu::contextual::contextual_mlp));
  m.impl("contextual_mlp_predicted", TORCH_BOX(&sparseflow::cpu::contextual::contextual_mlp_predicted));
}
