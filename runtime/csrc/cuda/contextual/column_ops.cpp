// sparseflow::column_linear on CUDA.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "../driver.h"
#include "../ending.h"
#include "../multiply.h"
#include "common/epilogue.h"
#include "column.h"

namespace sparseflow::cuda::contextual {
namespace {

constexpr const char* kOp = "column_linear";
constexpr int64_t kLargest = INT32_MAX / 2;
constexpr int64_t kMostAskedRows = 32;  // the largest m_max

using Optional = std::optional<Tensor>;

struct Arguments {
  const Tensor &x, &weight;
  const Optional &bias, &residual, &scale;
  double threshold;
  int64_t m_max;
  Epilogue ending;

  int64_t k() const { return weight.size(0); }
  int64_t n() const { return weight.size(1); }
  int64_t out() const { return ending.gated ? n() / 2 : n(); }  // features of y

  int64_t rows() const {
    int64_t rows = 1;
    for (int64_t d = 0; d + 1 < x.dim(); ++d) rows *= x.size(d);
    return rows;
  }

  // Whether the rows of x are few enough for inputs to be left out, and no part of a sequence that is read at once.
  bool quantised() const {
    return weight.scalar_type() == ScalarType::Char || weight.scalar_type() == ScalarType::Float8_e4m3fn;
  }

  bool selects() const { return rows() <= m_max && (x.dim() < 3 || x.size(x.dim() - 2) == 1); }
};

bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
}

Stored stored_of(ScalarType dtype) {
  return dtype == ScalarType::Float ? Stored::f32 : dtype == ScalarType::Half ? Stored::f16 : Stored::bf16;
}

void check(const Arguments& a) {
  const bool quantised = a.quantised();
  SF_REQUIRE(a.weight.is_contiguous(), kOp, "weight must be a contiguous matrix, got " + words(a.weight));
  SF_REQUIRE(quantised || is_floating(a.weight.scalar_type()), kOp,
             "weight must be float32, bfloat16, float16, int8 or float8_e4m3fn, got " + words(a.weight));
  SF_REQUIRE(a.scale.has_value() == quantised, kOp, "weights in 8 bits have scales, other weights none");
  SF_REQUIRE(a.x.is_cuda() && a.x.dim() >= 1 && a.x.size(a.x.dim() - 1) == a.k(), kOp,
             "x must be [..., " + std::to_string(a.k()) + "] on a CUDA device, got " + words(a.x));
  SF_REQUIRE(quantised ? is_floating(a.x.scalar_type()) : a.weight.scalar_type() == a.x.scalar_type(), kOp,
             "x must have the dtype of the weight, " + words(a.weight) + ", got " + words(a.x));
  SF_REQUIRE(a.threshold >= 0, kOp, "threshold must be at least 0, got " + std::to_string(a.threshold));
  SF_REQUIRE(a.m_max >= 0 && a.m_max <= kMostAskedRows, kOp,
             "m_max must be 0 … " + std::to_string(kMostAskedRows) + ", got " + std::to_string(a.m_max));
  const int device = a.x.get_device_index();
  check_tensor(kOp, "weight", a.weight, a.weight.scalar_type(), {a.k(), a.n()}, device);
  if (a.bias) check_tensor(kOp, "bias", *a.bias, a.x.scalar_type(), {a.n()}, device);
  if (a.scale) check_tensor(kOp, "scale", *a.scale, ScalarType::Float, {a.n()}, device);
  if (a.residual) check_tensor(kOp, "residual", *a.residual, a.x.scalar_type(), sizes_with_last(a.x, a.out()), device);
}

// Returns the kernel's view of a product whose x is `x`, padded; the pointers are still to be set.
Columns sizes_of(const Arguments& a, int64_t rows) {
  Columns p{};
  p.m = static_cast<int>(rows), p.k = static_cast<int>(a.k()), p.n = static_cast<int>(a.n());
  p.pieces = (p.k + 7) / 8;
  p.activation = a.ending.activation, p.gated = a.ending.gated;
  if (a.scale) p.scale = static_cast<const float*>(a.scale->const_data_ptr());
  return p;
}

// Whether a kernel runs this product; all others read the whole weight.
bool kernel_takes(const Arguments& a, int64_t rows, int device) {
  const ScalarType dtype = a.x.scalar_type();
  return (dtype == ScalarType::Half || dtype == ScalarType::BFloat16) && rows <= kMostColumnRows && a.k() > 0 &&
         a.k() <= kMostColumnInputs && a.out() % 8 == 0 && a.n() <= kLargest &&
         reinterpret_cast<uintptr_t>(a.weight.const_data_ptr()) % 16 == 0 && takes(sizes_of(a, rows), device);
}

Bytes bytes_of_weight(const Tensor& weight) {
  if (weight.scalar_type() == ScalarType::Char) return Bytes::i8;
  return weight.scalar_type() == ScalarType::Float8_e4m3fn ? Bytes::e4m3 : Bytes::as_x;
}

const void* pointer(const Optional& t) { return t ? t->const_data_ptr() : nullptr; }

Tensor by_kernel(const Arguments& a, int64_t rows, int device) {
  const bool half = a.x.scalar_type() == ScalarType::Half;
  Columns p = sizes_of(a, rows);
  const Tensor x = padded(usable(a.x), rows, p.k, rows, p.pieces * 8);
  const Tensor y = torch::stable::new_empty(a.x, sizes_with_last(a.x, a.out()));
  const Optional bias = a.bias ? Optional(usable(*a.bias)) : std::nullopt;
  const Optional residual = a.residual ? Optional(usable(*a.residual)) : std::nullopt;
  const Optional scale = a.scale ? Optional(usable(*a.scale)) : std::nullopt;
  p.x = x.const_data_ptr();
  p.weight = a.weight.const_data_ptr();
  p.scale = static_cast<const float*>(pointer(scale));
  p.bias = pointer(bias), p.residual = pointer(residual);
  p.y = y.mutable_data_ptr();
  p.limit = limit_for(static_cast<float>(a.threshold), half);
  Optional scratch;
  if (const int64_t bytes = column_scratch(p, device)) {
    scratch = torch::stable::new_empty(x, {bytes / 4}, ScalarType::Float);
    p.partials = static_cast<float*>(scratch->mutable_data_ptr());
  }
  run(p, half, bytes_of_weight(a.weight), device, stream_of(device));
  return y;
}

// x with 0 for what is below the threshold.
Tensor masked(const Arguments& a, int device) {
  const Tensor x = usable(a.x), y = torch::stable::new_empty(x, x.sizes());
  mask({x.const_data_ptr(), y.mutable_data_ptr(), x.numel(), static_cast<float>(a.threshold)},
       stored_of(x.scalar_type()), device, stream_of(device));
  return y;
}

// Over every row of the weight.
Tensor dense(const Arguments& a, const Tensor& x) {
  Tensor weight = a.weight;
  if (a.scale) {
    const Tensor wide = torch::stable::to(weight, ScalarType::Float);  // no product is defined for e4m3
    weight = torch::stable::to(call_aten("aten::mul", "Tensor", wide, *a.scale), x.scalar_type());
  }
  const Tensor y = call_aten("aten::linear", "", x, call_aten("aten::t", "", weight), a.bias);
  if (a.ending.gated) return gated(kOp, y, a.rows(), a.ending.activation);
  return added(activated(y, a.ending.activation), a.residual);
}

Tensor column_linear(const Tensor& x, const Tensor& weight, double threshold, Optional bias, Optional residual,
                     Optional scale, int64_t m_max, std::string epilogue) {
  SF_REQUIRE(weight.dim() == 2, kOp, "weight must be a contiguous matrix, got " + words(weight));
  const Epilogue ending = epilogue_of(kOp, epilogue, weight.size(1), residual.has_value());
  const Arguments a{x, weight, bias, residual, scale, threshold, m_max, ending};
  check(a);
  const int device = x.get_device_index();
  const OnDevice guard(device);
  const int64_t rows = a.rows();
  if (rows == 0 || a.n() == 0) return torch::stable::new_empty(x, sizes_with_last(x, a.out()));
  if (!a.selects()) return dense(a, x);
  return kernel_takes(a, rows, device) ? by_kernel(a, rows, device) : dense(a, masked(a, device));
}

}  // namespace
}  // namespace sparseflow::cuda::contextual

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) {
  m.impl("column_linear", TORCH_BOX(&sparseflow::cuda::contextual::column_linear));
}
