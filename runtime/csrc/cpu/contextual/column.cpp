// sparseflow::column_linear on CPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

#include "../finish.h"
#include "../isa.h"
#include "../tape.h"
#include "common/aten.h"
#include "common/epilogue.h"
#include "operands.h"

namespace sparseflow::cpu::contextual {
namespace {

using torch::headeronly::ScalarType;

constexpr const char* kOp = "column_linear";
constexpr int64_t kFew = 64 * 1024;  // elements of the weight that aren't worth waking a thread for
constexpr int64_t kLine = 64;        // columns at which widened chunks may part
constexpr int64_t kLineBytes = 64;   // of a row, at which threads may part
constexpr int64_t kSegment = 256;    // bytes of a row that a thread reads at least: memory gives shorter ones slowly
constexpr int64_t kChunk = 8 << 20;  // bytes of widened weight at a time, which stay in the last cache

void check(const Tensor& x, const Matrix& w, const Tensor& weight, const Maybe& bias, const Maybe& residual,
           double threshold, int64_t m_max) {
  SF_REQUIRE(x.dim() >= 1 && x.size(x.dim() - 1) == w.rows, kOp,
             "x must be [..., " + std::to_string(w.rows) + "], got " + shape_of(x));
  SF_REQUIRE(w.stored == Stored::i8 || weight.scalar_type() == x.scalar_type(), kOp,
             std::string("x must have the dtype of the weight, ") + torch::headeronly::toString(weight.scalar_type()) +
                 ", got " + torch::headeronly::toString(x.scalar_type()));
  SF_REQUIRE(threshold >= 0, kOp, "threshold must be at least 0, got " + std::to_string(threshold));
  SF_REQUIRE(m_max >= 0 && m_max <= kPanel, kOp,
             "m_max must be 0 … " + std::to_string(kPanel) + ", got " + std::to_string(m_max));
  vector_of(kOp, "bias", bias, x.scalar_type(), w.columns);
  if (!residual) return;  // none with a gate
  const std::vector<int64_t> sizes = sizes_with_last(x, w.columns);
  const auto given = residual->sizes();
  SF_REQUIRE(residual->scalar_type() == x.scalar_type() && std::equal(given.begin(), given.end(), sizes.begin(), sizes.end()),
             kOp, "residual must have the dtype of x and the shape of the result, got " + shape_of(*residual));
}

// Whether the inputs of x are few enough to be looked at, and no part of a sequence that is read at once.
bool selects(const Tensor& x, int64_t rows, int64_t m_max) {
  return rows <= m_max && (x.dim() < 3 || x.size(x.dim() - 2) == 1);
}

// Rows of y from their sums.
void finish_rows(const Wide& sums, Ending ending, const char* residual, int64_t n, const Tensor& y) {
  const int64_t bytes = n * static_cast<int64_t>(y.element_size());
  auto* to = static_cast<char*>(y.mutable_data_ptr());
  torch::stable::parallel_for(0, sums.count, std::max<int64_t>(1, kFew / n), [&](int64_t first, int64_t last) {
    for (int64_t m = first; m < last; ++m) {
      Ending row = ending;
      if (residual) row.residual = residual + m * bytes;
      kernels().finish_columns(sums.data + m * sums.pitch, row, 0, n, to + m * bytes);
    }
  });
}

// Whether torch multiplies a matrix of this type that is stored K outermost as fast as one that isn't: without
// instructions for bf16 it is several times slower.
bool multiplies(Stored stored) {
  return stored == Stored::f32 || (stored == Stored::bf16 && (isa_name() == "amx" || isa_name() == "avx512bf16"));
}

// Columns [begin, end) of a weight in fp32, in `to` [K, end - begin].
void widen_columns(const Matrix& w, int64_t begin, int64_t end, float* to) {
  const int64_t columns = end - begin;
  torch::stable::parallel_for(0, w.rows, 16, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) kernels().widen_stored(w, k, begin, end, to + k * columns);
  });
}

// y = x · weight · scale + bias + residual in fp32, the weight widened some columns at a time.
Tensor every_input_widened(const Tensor& x, const Tensor& weight, const Matrix& w, const Ending& ending,
                           const char* residual) {
  const WideRows rows(kOp, x), sums(rows.all().count, w.columns);
  const Wide &wide = rows.all(), &out = sums.all();
  const Tensor y = torch::stable::new_empty(x, sizes_with_last(x, w.columns));
  if (y.numel() == 0) return y;
  const int64_t chunk = std::max(kLine, kChunk / 4 / std::max<int64_t>(w.rows, 1) / kLine * kLine);
  const Scratch scratch(std::min(chunk, w.columns) * w.rows * static_cast<int64_t>(sizeof(float)));
  auto* widened = reinterpret_cast<float*>(scratch.data());
  const auto matrix = [&](float* data, int64_t m, int64_t n, int64_t pitch) {
    return torch::stable::from_blob(data, {m, n}, {pitch, 1}, weight.device(), ScalarType::Float);
  };
  const Tensor from = matrix(wide.data, wide.count, w.rows, wide.pitch);
  for (int64_t begin = 0; begin < w.columns; begin += chunk) {
    const int64_t end = std::min(begin + chunk, w.columns);
    widen_columns(w, begin, end, widened);
    call_aten("aten::mm", "out", from, matrix(widened, w.rows, end - begin, end - begin),
              matrix(out.data + begin, out.count, end - begin, out.pitch));
  }
  finish_rows(out, ending, residual, w.columns, y);
  return y;
}

// y = sums · scale + bias + residual; `sum(begin, end)` makes the sums of some columns, each thread those of a share, over
// `inputs` rows of the weight.
template <class Sum>
void by_columns(const Matrix& w, const Ending& ending, const char* residual, const Wide& sums, int64_t inputs, char* y,
                const Sum& sum) {
  const int64_t n = w.columns, size = ending.dtype == DType::f32 ? 4 : 2, stored = w.stored == Stored::i8 ? 1 : size;
  const int64_t parts = std::clamp<int64_t>(std::min(inputs * n / kFew, n * stored / kSegment), 1,
                                            torch::stable::get_num_threads());
  const int64_t line = kLineBytes / stored, lines = (n + line - 1) / line;
  torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      const int64_t begin = lines * part / parts * line, end = std::min(lines * (part + 1) / parts * line, n);
      if (begin >= end) continue;
      sum(begin, end);
      for (int64_t m = 0; m < sums.count; ++m) {
        Ending row = ending;
        if (residual) row.residual = residual + m * n * size;
        kernels().finish_columns(sums.data + m * sums.pitch, row, begin, end, y + m * n * size);
      }
    }
  });
}

// The rows of x up to which our kernel is the faster one for every input: 32 were measured to take 0.7 to 0.9 of the time
// of torch's product on an AMD EPYC (Zen 4), 14 about half. Where torch has instructions for bf16 it wins from 16 rows on.
int64_t streamed_rows(const Matrix& w) {
  if (!w.one_stream) return 0;  // not measured there
  return w.stored == Stored::bf16 && multiplies(w.stored) ? 16 : kPanel;
}

// The same as every_input for few rows: the weight streams by once.
Tensor every_input_streamed(const Tensor& x, const Matrix& w, const Ending& ending, const char* residual) {
  const Tensor y = torch::stable::new_empty(x, sizes_with_last(x, w.columns));
  if (y.numel() == 0) return y;
  const WideRows rows(kOp, x), sums(rows.all().count, w.columns);
  by_columns(w, ending, residual, sums.all(), w.rows, static_cast<char*>(y.mutable_data_ptr()),
             [&](int64_t begin, int64_t end) { kernels().every(w, rows.all(), sums.all(), begin, end); });
  return y;
}

// Every input, over the same weight.
Tensor every_input(const Tensor& x, int64_t rows, const Tensor& weight, const Matrix& w, const Ending& ending,
                   const Maybe& bias, const Maybe& residual) {
  const auto* added = residual ? static_cast<const char*>(residual->const_data_ptr()) : nullptr;
  if (rows <= streamed_rows(w)) return every_input_streamed(x, w, ending, added);
  if (!multiplies(w.stored)) return every_input_widened(x, weight, w, ending, added);
  const Tensor y = torch::stable::contiguous(call_aten("aten::linear", "", x, call_aten("aten::t", "", weight), bias));
  finish(y, residual, Activation::none);
  return y;
}

// y = x' · weight · scale + bias + residual, x' being the kept inputs.
void kept_inputs(const Source& x, const Matrix& w, const Ending& ending, const char* residual, double threshold, char* y) {
  if (x.count * w.columns == 0) return;
  const WideRows rows(x);
  const Wide& wide = rows.all();
  const Scratch list((w.rows + kListSlack) * static_cast<int64_t>(sizeof(int32_t)));
  auto* kept = reinterpret_cast<int32_t*>(list.data());
  const int64_t count = kernels().keep(wide, w.rows, static_cast<float>(threshold), kept);
  const WideRows sums(wide.count, w.columns);
  by_columns(w, ending, residual, sums.all(), count, y, [&](int64_t begin, int64_t end) {
    kernels().column(w, wide, kept, count, sums.all(), begin, end);
  });
}

Tensor column_linear(const Tensor& x, const Tensor& weight, double threshold, Maybe bias, Maybe residual, Maybe scale,
                     int64_t m_max, std::string epilogue) {
  Matrix w = rows_in_place(kOp, "weight", weight);
  w.one_stream = reads_one_stream();
  SF_REQUIRE(scale.has_value() == (w.stored == Stored::i8), kOp, "int8 weights have scales, other weights none");
  const Epilogue after = epilogue_of(kOp, epilogue, w.columns, residual.has_value());
  check(x, w, weight, bias, residual, threshold, m_max);
  const auto* scales = static_cast<const float*>(vector_of(kOp, "scale", scale, ScalarType::Float, w.columns));
  int64_t rows = 1;
  for (int64_t d = 0; d + 1 < x.dim(); ++d) rows *= x.size(d);
  const void* residual_at = residual ? residual->const_data_ptr() : nullptr;
  if (residual) residual = torch::stable::contiguous(*residual);
  // The residual is added to what was activated, by the same loop over y.
  const bool activates = after.activation != Activation::none;
  const Maybe within = activates ? Maybe() : residual;
  const Ending ending = {scales, bias ? bias->const_data_ptr() : nullptr, nullptr, dtype_of(kOp, "x", x)};
  const auto* added = within ? static_cast<const char*>(within->const_data_ptr()) : nullptr;
  if (!selects(x, rows, m_max)) {
    spoil_tape("a layer that leaves inputs out reads all of them");
    const Tensor y = every_input(x, rows, weight, w, ending, bias, within);
    if (after.gated) return gated(y, after.activation);
    if (activates) finish(y, residual, after.activation);
    return y;
  }
  if (residual && residual->const_data_ptr() != residual_at) spoil_tape("a residual doesn't lie in one piece");
  const Rows in = rows_of(x);
  if (in.tensor.const_data_ptr() != x.const_data_ptr())
    spoil_tape("an input of a layer that leaves inputs out doesn't lie in one piece");
  const Source source = source_of(kOp, in);
  const Tensor y = torch::stable::new_empty(x, sizes_with_last(x, w.columns));
  const Tensor out = after.gated ? torch::stable::new_empty(x, sizes_with_last(x, w.columns / 2)) : y;
  auto* to = static_cast<char*>(y.mutable_data_ptr());
  const std::function<void()> gate = after.gated ? gating(y, after.activation, out) : nullptr;
  // Copies of the tensors hold their memory.
  perform([=, held = std::array{in.tensor, weight, bias.value_or(y), scale.value_or(y), out}] {
    kept_inputs(source, w, ending, added, threshold, to);
    if (gate) gate();
    else if (activates) finish(y, residual, after.activation);
  });
  return out;
}

}  // namespace
}  // namespace sparseflow::cpu::contextual

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CPU, m) {
  m.impl("column_linear", TORCH_BOX(&sparseflow::cpu::contextual::column_linear));
}
