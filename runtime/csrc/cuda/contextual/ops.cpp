// sparseflow::contextual_mlp, _mlp_predicted, _scores and _select on CUDA.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "../driver.h"
#include "../multiply.h"
#include "common/epilogue.h"
#include "contextual.h"

namespace sparseflow::cuda::contextual {
namespace {

using Optional = std::optional<Tensor>;

constexpr int64_t kLargest = INT32_MAX / 2;

template <class T, size_t Count>
T named(const char* op, const char* what, const std::string& name, const std::array<const char*, Count>& names) {
  std::string known;
  for (size_t i = 0; i < Count; ++i) {
    if (name == names[i]) return static_cast<T>(i);
    known += (i ? ", " : "") + std::string(names[i]);
  }
  refuse(op, std::string(what) + " must be one of " + known + ", got '" + name + "'");
}

Stored stored_of(const char* op, const char* what, const Tensor& t, bool quantised) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Stored::f32;
    case ScalarType::BFloat16: return Stored::bf16;
    case ScalarType::Half: return Stored::f16;
    case ScalarType::Char:
      if (quantised) return Stored::i8;
      break;
    default: break;
  }
  refuse(op, std::string(what) + " must be float32, bfloat16 or float16" + (quantised ? " or int8" : "") + ", got " +
                 words(t));
}

// Checks x [..., features]; returns the number of its rows.
int64_t rows_of(const char* op, const Tensor& x, int64_t features) {
  SF_REQUIRE(x.is_cuda() && x.dim() >= 1 && x.size(x.dim() - 1) == features, op,
             "x must be [..., " + std::to_string(features) + "] on a CUDA device, got " + words(x));
  int64_t rows = 1;
  for (int64_t d = 0; d + 1 < x.dim(); ++d) rows *= x.size(d);
  SF_REQUIRE(rows <= kLargest, op, "x has too many rows: " + words(x));
  return rows;
}

// A weight on the device, and the pointer for kernels.
struct Placed {
  Tensor tensor;
  const void* data;

  Placed(const char* op, const char* what, const Tensor& t, ScalarType dtype, const std::vector<int64_t>& sizes,
         int device)
      : tensor((check_tensor(op, what, t, dtype, sizes, device), usable(t))), data(tensor.const_data_ptr()) {}
};

using Vector = std::optional<Placed>;  // or a matrix

// Checks an optional vector.
Vector vector(const char* op, const char* what, const Optional& t, ScalarType dtype, int64_t size, int device) {
  return t ? Vector(std::in_place, op, what, *t, dtype, std::vector{size}, device) : std::nullopt;
}

// Checks the scales of a weight, which only int8 weights have.
Vector scale_of(const char* op, const char* what, const Optional& scale, const Tensor& weight, int device) {
  const bool quantised = weight.scalar_type() == ScalarType::Char;
  SF_REQUIRE(quantised == scale.has_value(), op, std::string(what) + ": int8 weights have scales, other weights none");
  return vector(op, what, scale, ScalarType::Float, weight.size(0), device);
}

const void* data_of(const Vector& v) { return v ? v->data : nullptr; }

const float* floats(const Vector& v) { return static_cast<const float*>(data_of(v)); }

Tensor scratch(const Tensor& like, int64_t size, ScalarType dtype) {
  return torch::stable::new_empty(like, {size}, dtype);
}

// The tensors of an MLP, as in the operators' arguments.
struct Tensors {
  const Tensor& x;
  const Optional& gate;
  const Tensor &up, &down_t;
  const Optional &gate_scale, &up_scale, &down_scale, &gate_bias, &up_bias, &down_bias;

  int64_t rows(const char* op) const {
    SF_REQUIRE(up.dim() == 2, op, "up must be [I, H], got " + words(up));
    return rows_of(op, x, up.size(1));
  }
};

// The neurons that an MLP reads: those of a list, of a list for each row of x, or marked ones.
struct Chosen {
  const int32_t *neurons = nullptr, *count = nullptr;
  const uint32_t* marks = nullptr;
  bool per_row = false;
};

Tensor over(const char* op, const Tensors& t, const Chosen& chosen, Activation activation) {
  const int64_t m = t.rows(op), intermediate = t.up.size(0), hidden = t.up.size(1);
  const int device = t.x.get_device_index();
  const ScalarType dtype = t.x.scalar_type(), stored = t.up.scalar_type();
  const Stored of_x = stored_of(op, "x", t.x, false), weights = stored_of(op, "up", t.up, true);
  SF_REQUIRE(weights == of_x || weights == Stored::i8, op,
             "up must be int8 or like x " + words(t.x) + ", got " + words(t.up));
  SF_REQUIRE(hidden <= kLargest && intermediate <= kLargest && (!chosen.per_row || m <= 65535), op,
             "takes no sizes this large");
  const Tensor y = torch::stable::new_empty(t.x, t.x.sizes());
  const std::vector<int64_t> shape{intermediate, hidden};
  const Placed u(op, "up", t.up, stored, shape, device), d(op, "down_t", t.down_t, stored, shape, device);
  const Vector g = t.gate ? Vector(std::in_place, op, "gate", *t.gate, stored, shape, device) : std::nullopt;
  const Tensor rows = usable(t.x);
  const Vector gs = t.gate ? scale_of(op, "gate_scale", t.gate_scale, *t.gate, device) : std::nullopt;
  const Vector us = scale_of(op, "up_scale", t.up_scale, t.up, device);
  const Vector ds = scale_of(op, "down_scale", t.down_scale, t.down_t, device);
  const Vector gb = vector(op, "gate_bias", t.gate_bias, dtype, intermediate, device);
  const Vector ub = vector(op, "up_bias", t.up_bias, dtype, intermediate, device);
  const Vector db = vector(op, "down_bias", t.down_bias, dtype, hidden, device);
  if (m == 0 || hidden == 0) return y;
  const int64_t lists = chosen.per_row ? m : 1;
  Mlp p{rows.const_data_ptr(), data_of(g), u.data, d.data, floats(gs), floats(us), floats(ds),
        data_of(gb), data_of(ub), data_of(db), chosen.neurons, chosen.count, chosen.marks, static_cast<int>(m),
        static_cast<int>(hidden), static_cast<int>(intermediate), chosen.per_row, hidden % 8 == 0, activation};
  p.splits = splits_for(p.hidden, static_cast<int>(lists), device);
  const Tensor h = scratch(rows, m * intermediate, ScalarType::Float);
  const Tensor partials = scratch(rows, p.splits * m * hidden, ScalarType::Float);
  const Tensor tickets = scratch(rows, lists * strips(p.hidden), ScalarType::Int);
  p.h = static_cast<float*>(h.mutable_data_ptr());
  p.partials = static_cast<float*>(partials.mutable_data_ptr());
  p.tickets = static_cast<uint32_t*>(tickets.mutable_data_ptr());
  p.y = y.mutable_data_ptr();
  run(p, weights, of_x, device, stream_of(device));
  return y;
}

Tensor over_list(const char* op, const Tensors& t, const Tensor& neurons, const Tensor& count, Activation activation) {
  const int64_t m = t.rows(op), intermediate = t.up.size(0);
  const int device = t.x.get_device_index();
  const bool per_row = neurons.dim() == 2;
  const std::vector<int64_t> listed = per_row ? std::vector{m, intermediate} : std::vector{intermediate};
  check_tensor(op, "neurons", neurons, ScalarType::Int, listed, device);
  check_tensor(op, "count", count, ScalarType::Int, {per_row ? m : 1}, device);
  const OnDevice guard(device);
  const Tensor list = usable(neurons), counts = usable(count);
  return over(op, t,
              {static_cast<const int32_t*>(list.const_data_ptr()), static_cast<const int32_t*>(counts.const_data_ptr()),
               nullptr, per_row},
              activation);
}

Tensor mlp(const Tensor& x, Optional gate, const Tensor& up, const Tensor& down_t, Optional gate_scale,
           Optional up_scale, Optional down_scale, Optional gate_bias, Optional up_bias, Optional down_bias,
           const Tensor& neurons, const Tensor& count, std::string activation) {
  constexpr const char* op = "contextual_mlp";
  return over_list(op, {x, gate, up, down_t, gate_scale, up_scale, down_scale, gate_bias, up_bias, down_bias}, neurons,
                   count, neuron_activation_of(op, activation));
}

// A projection by `weight`, whose `out` or `marks` are still to be set, and the tensors that own its operands.
struct Projected {
  Stored weight_stored, x_stored;
  Tensor x, weight;
  Vector scale, bias;
  Projection p;

  Projected(const char* op, const char* what, const Tensor& rows, int64_t m, const Tensor& w, const Optional& w_scale,
            const Optional& w_bias, bool early, int device)
      : weight_stored(stored_of(op, what, w, true)),
        x_stored(stored_of(op, "x", rows, false)),
        x(usable(rows)),
        weight(usable(w)),
        scale(scale_of(op, what, w_scale, w, device)),
        bias(vector(op, "bias", w_bias, ScalarType::Float, w.size(0), device)) {
    const int64_t n = w.size(0), k = w.size(1);
    SF_REQUIRE(n <= kLargest && k <= kLargest, op, "takes no sizes this large");
    early = early && weight.const_data_ptr() == w.const_data_ptr();  // a copy is written by the previous launch
    p = {x.const_data_ptr(), weight.const_data_ptr(), floats(scale), floats(bias), static_cast<int>(m),
         static_cast<int>(n), static_cast<int>(k), k % 8 == 0, early, nullptr};
  }

  void run(int device) const { project(p, weight_stored, x_stored, device, stream_of(device)); }

  // [m, n] in fp32.
  Tensor out(int device) {
    const Tensor y = torch::stable::new_empty(x, {p.m, p.n}, ScalarType::Float);
    p.out = static_cast<float*>(y.mutable_data_ptr());
    run(device);
    return y;
  }
};

// Multiplies x by a predictor's first factor, and returns the projection of the result by its second.
Projected scoring(const char* op, const Tensor& x, const Tensor& a, const Tensor& b, const Optional& bias,
                  const Optional& a_scale, const Optional& b_scale, int device) {
  SF_REQUIRE(a.dim() == 2, op, "a must be [r, H], got " + words(a));
  SF_REQUIRE(b.dim() == 2, op, "b must be [I, r], got " + words(b));
  const int64_t m = rows_of(op, x, a.size(1));
  check_tensor(op, "a", a, a.scalar_type(), {a.size(0), a.size(1)}, device);
  check_tensor(op, "b", b, b.scalar_type(), {b.size(0), a.size(0)}, device);
  const Tensor low = Projected(op, "a", x, m, a, a_scale, std::nullopt, false, device).out(device);
  return Projected(op, "b", low, m, b, b_scale, bias, true, device);
}

Tensor scores(const Tensor& x, const Tensor& a, const Tensor& b, Optional bias, Optional a_scale, Optional b_scale) {
  constexpr const char* op = "contextual_scores";
  SF_REQUIRE(x.is_cuda(), op, "x must be on a CUDA device, got " + words(x));
  const int device = x.get_device_index();
  const OnDevice guard(device);
  return scoring(op, x, a, b, bias, a_scale, b_scale, device).out(device);
}

std::tuple<Tensor, Tensor> selected(const Tensor& scores, std::string rule, double parameter, bool per_row) {
  constexpr const char* op = "contextual_select";
  static constexpr std::array<const char*, 3> rules{"threshold", "top_k", "statistical"};
  const auto by = named<Rule>(op, "rule", rule, rules);
  SF_REQUIRE(scores.dim() == 2 && scores.is_cuda() && scores.scalar_type() == ScalarType::Float, op,
             "scores must be float32 [M, I] on a CUDA device, got " + words(scores));
  const int64_t m = scores.size(0), neurons = scores.size(1);
  SF_REQUIRE(m <= kLargest && neurons <= kMostNeurons, op,
             "takes up to " + std::to_string(kMostNeurons) + " neurons, got " + words(scores));
  const int device = scores.get_device_index();
  const OnDevice guard(device);
  const Tensor from = usable(scores);
  const int64_t lists = per_row ? m : 1;
  const std::vector<int64_t> sizes = per_row ? std::vector{m, neurons} : std::vector{neurons};
  const Tensor list = torch::stable::new_empty(from, sizes, ScalarType::Int);
  const Tensor count = torch::stable::new_empty(from, {lists}, ScalarType::Int);
  const Tensor marks = scratch(from, m * words_for(static_cast<int>(neurons)), ScalarType::Int);
  select({static_cast<const float*>(from.const_data_ptr()), static_cast<int>(m), static_cast<int>(neurons), by,
          static_cast<float>(parameter), per_row, static_cast<uint32_t*>(marks.mutable_data_ptr()),
          static_cast<int32_t*>(list.mutable_data_ptr()), static_cast<int32_t*>(count.mutable_data_ptr())},
         device, stream_of(device));
  return {list, count};
}

// Predictor, selection and MLP in one call. The union of rows by a threshold needs no list, as the kernels number the
// marked neurons themselves.
Tensor predicted(const Tensor& x, Optional gate, const Tensor& up, const Tensor& down_t, Optional gate_scale,
                 Optional up_scale, Optional down_scale, Optional gate_bias, Optional up_bias, Optional down_bias,
                 const Tensor& a, const Tensor& b, Optional bias, Optional a_scale, Optional b_scale, std::string rule,
                 double parameter, std::string activation, bool per_row) {
  constexpr const char* op = "contextual_mlp_predicted";
  const Tensors t{x, gate, up, down_t, gate_scale, up_scale, down_scale, gate_bias, up_bias, down_bias};
  const auto act = neuron_activation_of(op, activation);
  const int64_t m = t.rows(op);
  const int device = x.get_device_index();
  const OnDevice guard(device);
  Projected last = scoring(op, x, a, b, bias, a_scale, b_scale, device);
  SF_REQUIRE(last.p.n == up.size(0), op, "b must score the neurons of up, got " + words(b) + " and " + words(up));
  const bool marking = rule == "threshold" && !per_row && m > 0 && last.p.n > 0;
  if (!marking || last.p.n > kMostMarked || last.p.k > kLongestMarking) {
    const auto [neurons, count] = selected(last.out(device), rule, parameter, per_row);
    return over_list(op, t, neurons, count, act);
  }
  const Tensor marks = scratch(x, words_for(last.p.n), ScalarType::Int);
  last.p.marks = static_cast<uint32_t*>(marks.mutable_data_ptr());
  last.p.limit = static_cast<float>(parameter);
  last.run(device);
  return over(op, t, {nullptr, nullptr, last.p.marks, false}, act);
}

}  // namespace
}  // namespace sparseflow::cuda::contextual

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) {
  using namespace sparseflow::cuda::contextual;
  m.impl("contextual_mlp", TORCH_BOX(&mlp));
  m.impl("contextual_mlp_predicted", TORCH_BOX(&predicted));
  m.impl("contextual_scores", TORCH_BOX(&scores));
  m.impl("contextual_select", TORCH_BOX(&selected));
}
