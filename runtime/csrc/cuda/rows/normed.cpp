// sparseflow::normed_rows on CUDA: normed.cu.
#include "normed.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../driver.h"
#include "../multiply.h"

namespace sparseflow::cuda {
namespace {

constexpr const char* kOp = "normed_rows";
constexpr uintptr_t kAligned = 16;
constexpr ScalarType kBf16 = ScalarType::BFloat16;

const void* pointer(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

// Checks an optional tensor of the type and sizes, and returns it contiguous and aligned.
std::optional<Tensor> given(const char* name, const std::optional<Tensor>& t, ScalarType dtype,
                            const std::vector<int64_t>& sizes, int device) {
  if (t) check_tensor(kOp, name, *t, dtype, sizes, device);
  return usable(t);
}

// A vector for all rows of x [..., K], or one for each batch of x [B, T, K]; with what holds its memory.
struct Vectors {
  std::optional<Tensor> held;
  int64_t stride = 0;

  PerBatch pointers() const { return {pointer(held), stride}; }
};

Vectors per_batch(const char* name, const std::optional<Tensor>& t, const Tensor& x) {
  if (!t) return {};
  const int64_t k = x.size(x.dim() - 1);
  const bool one = t->numel() == k, each = x.dim() == 3 && t->dim() >= 2 && t->size(0) == x.size(0) && t->numel() == x.size(0) * k;
  SF_REQUIRE(t->scalar_type() == kBf16 && t->dim() >= 1 && t->size(t->dim() - 1) == k && (one || each) &&
                 t->get_device_index() == x.get_device_index(),
             kOp, std::string(name) + " must be bfloat16 [K] or [B, 1, K], got " + words(*t));
  const int64_t apart = one ? 0 : t->stride(0);
  const bool readable = (k == 1 || t->stride(t->dim() - 1) == 1) && apart % 8 == 0 &&
                        reinterpret_cast<uintptr_t>(t->const_data_ptr()) % kAligned == 0;
  return readable ? Vectors{*t, apart} : Vectors{usable(*t), one ? 0 : k};
}

std::tuple<Tensor, Tensor, Tensor> normed_rows(const Tensor& x_, std::optional<Tensor> y, std::optional<Tensor> y_scale,
                                               std::optional<Tensor> w_scale, std::optional<Tensor> y_bias,
                                               std::optional<Tensor> gate, std::optional<Tensor> weight,
                                               std::optional<Tensor> bias, std::optional<Tensor> factor,
                                               std::optional<Tensor> shift, double eps, bool quantized) {
  const int device = x_.get_device_index();
  const OnDevice guard(device);
  SF_REQUIRE(x_.scalar_type() == kBf16 && x_.dim() >= 1 && x_.size(x_.dim() - 1) % 8 == 0 && x_.size(x_.dim() - 1) > 0 &&
                 x_.size(x_.dim() - 1) <= kLongestNormedRow,
             kOp, "x must be bfloat16 [..., K] with K a multiple of 8 up to " + std::to_string(kLongestNormedRow) + ", got " + words(x_));
  SF_REQUIRE(y.has_value() || (!y_scale && !w_scale && !y_bias && !gate), kOp, "y is missing");
  SF_REQUIRE(y_scale.has_value() == w_scale.has_value(), kOp, "y_scale and w_scale belong together");
  const Tensor x = usable(x_);
  const int64_t k = x.size(x.dim() - 1), m = x.numel() / k;
  if (y_scale) SF_REQUIRE(y_scale->numel() == m, kOp, "y_scale must have a number a row of x, got " + words(*y_scale));
  const std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  const auto of_y = given("y", y, kBf16, sizes, device);
  const auto of_rows = given("y_scale", y_scale, ScalarType::Float, sizes_with_last(x, 1), device);
  const auto of_w = given("w_scale", w_scale, ScalarType::Float, {k}, device);
  const auto y_bias_ = given("y_bias", y_bias, kBf16, {k}, device);
  const auto weight_ = given("weight", weight, kBf16, {k}, device), bias_ = given("bias", bias, kBf16, {k}, device);
  const Vectors gate_ = per_batch("gate", gate, x), factor_ = per_batch("factor", factor, x), shift_ = per_batch("shift", shift, x);
  const std::vector<int64_t> none{0};
  const Tensor sum = torch::stable::new_empty(x, y ? sizes : none);
  const Tensor out = torch::stable::new_empty(x, sizes, quantized ? ScalarType::Float8_e4m3fn : kBf16);
  const Tensor scale = torch::stable::new_empty(x, quantized ? sizes_with_last(x, 1) : none, ScalarType::Float);
  norm_rows({m, k, x.dim() == 3 && m ? x.size(1) : m, x.const_data_ptr(), pointer(of_y),
             static_cast<const float*>(pointer(of_rows)), static_cast<const float*>(pointer(of_w)), pointer(y_bias_),
             gate_.pointers(), factor_.pointers(), shift_.pointers(), pointer(weight_), pointer(bias_), static_cast<float>(eps),
             y ? sum.mutable_data_ptr() : nullptr, out.mutable_data_ptr(),
             quantized ? static_cast<float*>(scale.mutable_data_ptr()) : nullptr},
            stream_of(device));
  return {sum, out, scale};
}

}  // namespace
}  // namespace sparseflow::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(sparseflow, m) {
  m.def(
      "normed_rows(Tensor x, Tensor? y, Tensor? y_scale, Tensor? w_scale, Tensor? y_bias, Tensor? gate, Tensor? weight, "
      "Tensor? bias, Tensor? factor, Tensor? shift, float eps, bool quantized) -> (Tensor sum, Tensor out, Tensor scale)");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) { m.impl("normed_rows", TORCH_BOX(&sparseflow::cuda::normed_rows)); }
