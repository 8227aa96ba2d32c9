// sparseflow::linear_fp8_fused and product_fp8 on CUDA: cuSPARSELt by a plan, or cuBLAS by torch, as the policy says.
//
// cuSPARSELt scales fp8 products only by a single number, so both scales are applied to its result. That is in
// bfloat16, whose range holds 448² · K and which the tuned tables were measured with. Besides W, x and y this moves
// 3·M·K bytes for quantising x, and reads and writes 4·M·N bytes of the result.
#include "fp8.h"

#include <torch/csrc/stable/library.h>

#include "common/epilogue.h"
#include "driver.h"
#include "route.h"
#include "skinny/call.h"

namespace sparseflow::cuda {
namespace {

// x8 · W8ᵀ by cuBLAS.
Tensor dense_product(const Call& c, const Tensor& weight) {
  const Tensor one = torch::stable::full({}, 1.0, ScalarType::Float, std::nullopt, c.x.device());
  const Tensor y = call_aten("aten::_scaled_mm", "", torch::stable::view(c.x, {c.m, c.weight.k}),
                             torch::stable::transpose(weight, 0, 1), one, one, std::optional<Tensor>(),
                             std::optional<Tensor>(), std::optional(ScalarType::BFloat16), true);
  return torch::stable::view(y, sizes_with_last(c.x, c.weight.n()));
}

Tensor product_fp8(const Tensor& x, const Tensor& values, const Tensor& positions, int64_t in_features,
                   std::vector<int64_t> policy, std::optional<Tensor> dense) {
  constexpr const char* op = "product_fp8";
  constexpr ScalarType e4m3 = ScalarType::Float8_e4m3fn;
  SF_REQUIRE(values.scalar_type() == e4m3, op, "values must be float8_e4m3fn, got " + words(values));
  const Call c(op, x, {values, positions, in_features}, std::nullopt, std::nullopt, ScalarType::BFloat16);
  if (dense) check_tensor(op, "dense", *dense, e4m3, {c.weight.n(), in_features}, c.weight.device());
  const Route chosen = route(c.weight, {Activation::none, policy, false, false, c.m}, true);
  if (chosen.way == Way::nothing)
    return torch::stable::new_empty(c.x, sizes_with_last(c.x, c.weight.n()), ScalarType::BFloat16);
  SF_REQUIRE(chosen.way != Way::registered, op, "policy names a kernel that was registered from Python, and none does fp8");
  if (chosen.plan) return multiply(*chosen.plan, chosen.problem, c);
  return dense_product(c, dense ? *dense : dense_of(c.weight));
}

// Returns x [..., K] as the kernels need it: of 16 bits, contiguous and aligned.
Tensor rows_of(const char* op, const Tensor& x, int64_t k) {
  const ScalarType dtype = x.scalar_type();
  SF_REQUIRE((dtype == ScalarType::BFloat16 || dtype == ScalarType::Half) && x.dim() >= 1 && x.size(x.dim() - 1) == k &&
                 k % 8 == 0 && k > 0,
             op,
             "x must be bfloat16 or float16 [..., " + std::to_string(k) + "] with K a multiple of 8, got " + words(x));
  return usable(x);
}

// The whole of sparseflow::linear_fp8.
Tensor linear_fp8(const Tensor& x, const Tensor& values, const Tensor& positions, const Tensor& scales,
                  std::optional<Tensor> bias, std::optional<Tensor> residual, int64_t in_features, std::string epilogue,
                  std::vector<int64_t> policy, std::optional<Tensor> dense) {
  constexpr const char* op = "linear_fp8";
  const Activation act = activation_of(op, epilogue);
  const OnDevice guard(x.get_device_index());
  const Tensor rows = rows_of(op, x, in_features);
  const int device = rows.get_device_index();
  const int64_t m = rows.numel() / in_features, n = values.size(0);
  SF_REQUIRE(n % 8 == 0, op, "N must be a multiple of 8, got " + words(values));
  check_tensor(op, "scales", scales, ScalarType::Float, {n}, device);
  if (bias) check_tensor(op, "bias", *bias, x.scalar_type(), {n}, device);
  if (residual) check_tensor(op, "residual", *residual, x.scalar_type(), sizes_with_last(x, n), device);
  const Tensor x8 = torch::stable::new_empty(rows, rows.sizes(), ScalarType::Float8_e4m3fn);
  const Tensor x_scale = torch::stable::new_empty(rows, {m}, ScalarType::Float);
  const bool half = x.scalar_type() == ScalarType::Half;
  void* stream = stream_of(device);
  quantize_rows({m, in_features, rows.const_data_ptr(), half, x8.mutable_data_ptr(),
                 static_cast<float*>(x_scale.mutable_data_ptr())},
                stream);
  const Tensor raw = product_fp8(x8, values, positions, in_features, std::move(policy), std::move(dense));
  const Tensor y = torch::stable::new_empty(rows, sizes_with_last(rows, n));
  const Tensor w_scale = usable(scales);
  if (bias) bias = usable(*bias);
  if (residual) residual = usable(*residual);
  rescale({m, n, raw.const_data_ptr(), static_cast<const float*>(x_scale.const_data_ptr()),
           static_cast<const float*>(w_scale.const_data_ptr()), skinny::pointer(bias), skinny::pointer(residual), half,
           y.mutable_data_ptr(), act},
          stream);
  return y;
}

}  // namespace
}  // namespace sparseflow::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(sparseflow, m) {
  m.def(
      "linear_fp8_fused(Tensor x, Tensor values, Tensor positions, Tensor scales, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) {
  using namespace sparseflow::cuda;
  m.impl("product_fp8", TORCH_BOX(&product_fp8));
  m.impl("linear_fp8_fused", TORCH_BOX(&linear_fp8));
}
