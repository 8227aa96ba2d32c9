// sparseflow::linear_fp8_fused and its parts on CUDA: the own kernels for few and for many rows, cuSPARSELt by a plan, or
// cuBLAS by torch, as the policy says.
//
// The kernel for few rows takes x in 16 bits, and applies the scales of W's rows itself: one launch for the layer, gate included,
// and x loses nothing. The others multiply x in e4m3: the kernel for many rows applies both scales, and
// what follows them, in its end. cuSPARSELt scales fp8 products by one number only, so both scales
// are applied to its result: in bfloat16, whose range holds 448² · K and which the tuned tables measured. Beside W, x and
// y that moves 3·M·K bytes for the rows of x and reads and writes 4·M·N for the result, 3·M·N with a gate.
#include "fp8.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/epilogue.h"
#include "driver.h"
#include "ending.h"
#include "route.h"
#include "skinny/call.h"
#include "wide/call.h"

namespace sparseflow::cuda {
namespace {

// From so many rows on cuBLAS applies the scales of rows in its end: runtime/fp8.py says why.
constexpr int64_t kByRows = 512;

// x8 [m, K] · W8ᵀ + bias by cuBLAS, in bfloat16; the scales are one number each, or one a row.
Tensor scaled_product(const Tensor& rows, const Tensor& weight, const Tensor& x_scale, const Tensor& w_scale,
                      const std::optional<Tensor>& bias) {
  return call_aten("aten::_scaled_mm", "", rows, torch::stable::transpose(weight, 0, 1), x_scale, w_scale, bias,
                   std::optional<Tensor>(), std::optional(ScalarType::BFloat16), true);
}

// x8 · W8ᵀ by cuBLAS.
Tensor dense_product(const Call& c, const Tensor& weight) {
  const Tensor one = torch::stable::full({}, 1.0, ScalarType::Float, std::nullopt, c.x.device());
  const Tensor y = scaled_product(torch::stable::view(c.x, {c.m, c.weight.k}), weight, one, one, std::nullopt);
  return torch::stable::view(y, sizes_with_last(c.x, c.weight.n()));
}

void require_e4m3(const char* op, const DeviceWeight& weight, const std::optional<Tensor>& dense) {
  constexpr ScalarType e4m3 = ScalarType::Float8_e4m3fn;
  SF_REQUIRE(weight.values.scalar_type() == e4m3, op, "values must be float8_e4m3fn, got " + words(weight.values));
  if (dense) check_tensor(op, "dense", *dense, e4m3, {weight.n(), weight.k}, weight.device());
}

Route route_of(const char* op, const DeviceWeight& weight, const std::vector<int64_t>& policy, int64_t m,
               bool gated = false) {
  Route chosen = route(weight, {Activation::none, policy, false, false, m, gated}, true);
  SF_REQUIRE(chosen.way != Way::registered, op, "policy names a kernel that was registered from Python, and none does fp8");
  return chosen;
}

bool by_skinny(const Route& route) { return route.way == Way::skinny || route.way == Way::stand_in_skinny; }

// x8 · W8ᵀ [..., N] in bfloat16, by anything but the own kernel.
Tensor product_of(const Call& c, const Route& chosen, const std::optional<Tensor>& dense) {
  if (chosen.way == Way::nothing)
    return torch::stable::new_empty(c.x, sizes_with_last(c.x, c.weight.n()), ScalarType::BFloat16);
  if (chosen.plan) return multiply(*chosen.plan, chosen.problem, c);
  return dense_product(c, dense ? *dense : dense_of(c.weight));
}

// The same by any kernel: that for few rows gets x8 in bfloat16, which holds it exactly.
Tensor raw_product(const char* op, const Tensor& x8, const DeviceWeight& weight, const Route& chosen,
                   const std::optional<Tensor>& dense) {
  constexpr ScalarType bf16 = ScalarType::BFloat16;
  const Call c(op, x8, weight, std::nullopt, std::nullopt, bf16);
  if (chosen.way == Way::wide) return wide::product(weight, c.x, c.m, {}, bf16, chosen.variant);
  if (!by_skinny(chosen)) return product_of(c, chosen, dense);
  const Tensor rows = torch::stable::to(c.x, std::optional(bf16));
  return skinny::product(Call(op, rows, weight, std::nullopt, std::nullopt, bf16, bf16), Activation::none, chosen.variant);
}

Tensor product_fp8(const Tensor& x, const Tensor& values, const Tensor& positions, int64_t in_features,
                   std::vector<int64_t> policy, std::optional<Tensor> dense) {
  constexpr const char* op = "product_fp8";
  const DeviceWeight weight{values, positions, in_features};
  require_e4m3(op, weight, dense);
  const int64_t m = in_features ? x.numel() / in_features : 0;
  return raw_product(op, x, weight, route_of(op, weight, policy, m), dense);
}

// The layer in one launch; in two, if it has a gate and the route's variant can't apply it.
Tensor whole_by_skinny(const char* op, const Tensor& rows, const DeviceWeight& weight, const Tensor& scales,
                       std::optional<Tensor> bias, std::optional<Tensor> residual, const Epilogue& ending,
                       const Route& chosen) {
  const ScalarType dtype = rows.scalar_type();
  Call c(op, rows, weight, std::move(bias), std::move(residual), dtype, dtype);
  c.scale = usable(scales);
  const bool inside = chosen.gate == Gate::inside;
  const Tensor y = skinny::product(c, inside ? ending.activation : ending.before_gate(), chosen.variant, inside);
  return ending.gated && !inside ? gated(op, y, c.m, ending.activation) : y;
}

// x in e4m3 and the scales of its rows.
struct Quantized {
  Tensor x8, scale;
};

Quantized quantized(const Tensor& rows, int64_t m, int64_t k) {
  Quantized out{torch::stable::new_empty(rows, rows.sizes(), ScalarType::Float8_e4m3fn),
                torch::stable::new_empty(rows, sizes_with_last(rows, 1), ScalarType::Float)};
  quantize_rows({m, k, rows.const_data_ptr(), rows.scalar_type() == ScalarType::Half, out.x8.mutable_data_ptr(),
                 static_cast<float*>(out.scale.mutable_data_ptr())},
                stream_of(rows.get_device_index()));
  return out;
}

// What a layer has besides x, and the dtype of its y.
struct Layer {
  DeviceWeight weight;
  Tensor scales;
  std::optional<Tensor> bias, residual, dense;
  Epilogue ending;
  ScalarType dtype;

  // Throws unless all of it fits x of these sizes.
  void check(const char* op, const std::vector<int64_t>& y_sizes, int device) const {
    const int64_t n = weight.n(), unit = ending.gated ? 16 : 8;
    SF_REQUIRE(n % unit == 0, op, "N must be a multiple of " + std::to_string(unit) + ", got " + words(weight.values));
    check_tensor(op, "scales", scales, ScalarType::Float, {n}, device);
    if (bias) check_tensor(op, "bias", *bias, dtype, {n}, device);
    if (residual) check_tensor(op, "residual", *residual, dtype, y_sizes, device);
    weight.check(op);
    require_e4m3(op, weight, dense);
  }
};

// Whether cuBLAS applies the scales of rows and the bias in its end.
bool scaled_by_rows(const Layer& l, int64_t m, const Route& chosen) {
  return chosen.way == Way::dense && l.dtype == ScalarType::BFloat16 && m >= kByRows;
}

// The product of m rows in e4m3 by cuBLAS, with scales and bias.
Tensor dense_by_rows(const Quantized& x, int64_t m, const Layer& l) {
  const int64_t n = l.weight.n();
  const Tensor y = scaled_product(torch::stable::view(x.x8, {m, l.weight.k}), l.dense ? *l.dense : dense_of(l.weight),
                                  torch::stable::view(x.scale, {m, 1}), torch::stable::view(usable(l.scales), {1, n}),
                                  usable(l.bias));
  return torch::stable::view(y, sizes_with_last(x.x8, n));
}

// The layer's product and what follows, of m rows in e4m3: by the kernel for many rows in one launch, or two if it has a
// gate that the route's variant can't apply; by others in two.
Tensor after_quantizing(const char* op, const Quantized& x, int64_t m, const Layer& l, const Route& chosen) {
  const Tensor w_scale = usable(l.scales);
  const std::optional<Tensor> bias = usable(l.bias), residual = usable(l.residual);
  if (chosen.way == Way::wide) {
    const bool inside = chosen.gate == Gate::inside;
    const wide::End end{w_scale, x.scale, bias, residual, inside ? l.ending.activation : l.ending.before_gate(), inside};
    const Tensor y = wide::product(l.weight, x.x8, m, end, l.dtype, chosen.variant);
    return l.ending.gated && !inside ? gated(op, y, m, l.ending.activation) : y;
  }
  const int64_t n = l.weight.n();
  const bool plain = l.ending.activation == Activation::none && !l.ending.gated && !residual;
  if (plain && scaled_by_rows(l, m, chosen)) return dense_by_rows(x, m, l);
  const Tensor raw = raw_product(op, x.x8, l.weight, chosen, l.dense);
  const Tensor y = torch::stable::new_empty(x.x8, sizes_with_last(x.x8, l.ending.gated ? n / 2 : n), l.dtype);
  rescale({m, n, raw.const_data_ptr(), static_cast<const float*>(x.scale.const_data_ptr()),
           static_cast<const float*>(w_scale.const_data_ptr()), skinny::pointer(bias), skinny::pointer(residual),
           l.dtype == ScalarType::Half, y.mutable_data_ptr(), l.ending.activation, l.ending.gated},
          stream_of(x.x8.get_device_index()));
  return y;
}

// Its rows, quantised for the layer that follows it. Activation and gate are computed where the rows are held anyway, unless the
// kernel for many rows writes half as much for its gate.
Quantized requantized(const char* op, const Quantized& x, int64_t m, const Layer& l, const Route& chosen) {
  const int64_t n = l.weight.n(), row = l.ending.gated ? n / 2 : n;
  if (!can_requantize(row)) return quantized(after_quantizing(op, x, m, l, chosen), m, row);
  Quantized out{torch::stable::new_empty(x.x8, sizes_with_last(x.x8, row)),
                torch::stable::new_empty(x.x8, sizes_with_last(x.x8, 1), ScalarType::Float)};
  const std::optional<Tensor> bias = usable(l.bias);
  const Tensor w_scale = usable(l.scales);
  const auto quantize = [&](const Tensor& y, bool scaled, bool whole) {
    requantize({m, whole ? row : n, y.const_data_ptr(),
                scaled ? nullptr : static_cast<const float*>(x.scale.const_data_ptr()),
                scaled ? nullptr : static_cast<const float*>(w_scale.const_data_ptr()),
                scaled ? nullptr : skinny::pointer(bias), l.dtype == ScalarType::Half,
                whole ? Activation::none : l.ending.activation, l.ending.gated && !whole, out.x8.mutable_data_ptr(),
                static_cast<float*>(out.scale.mutable_data_ptr())},
               stream_of(x.x8.get_device_index()));
    return out;
  };
  if (chosen.way == Way::wide) {
    const bool inside = l.ending.gated && chosen.gate == Gate::inside;
    const wide::End end{w_scale, x.scale, bias, std::nullopt, inside ? l.ending.activation : Activation::none, inside};
    return quantize(wide::product(l.weight, x.x8, m, end, l.dtype, chosen.variant), true, inside);
  }
  if (scaled_by_rows(l, m, chosen)) return quantize(dense_by_rows(x, m, l), true, false);
  return quantize(raw_product(op, x.x8, l.weight, chosen, l.dense), false, false);
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
  const OnDevice guard(x.get_device_index());
  const Tensor rows = rows_of(op, x, in_features);
  const int64_t m = rows.numel() / in_features, n = values.size(0);
  const Epilogue ending = epilogue_of(op, epilogue, n, residual.has_value());
  const Layer layer{{values, positions, in_features}, scales, std::move(bias), std::move(residual), std::move(dense),
                    ending, x.scalar_type()};
  layer.check(op, sizes_with_last(x, n), rows.get_device_index());
  const Route chosen = route_of(op, layer.weight, policy, m, layer.ending.gated);
  if (by_skinny(chosen))
    return whole_by_skinny(op, rows, layer.weight, scales, layer.bias, layer.residual, layer.ending, chosen);
  return after_quantizing(op, quantized(rows, m, in_features), m, layer, chosen);
}

// Throws unless x8 [..., K] and its scales, one a row, can be multiplied. Returns the rows.
int64_t rows_in_e4m3(const char* op, const Tensor& x8, const Tensor& x_scale, int64_t k) {
  SF_REQUIRE(x8.scalar_type() == ScalarType::Float8_e4m3fn && x8.dim() >= 1 && x8.size(x8.dim() - 1) == k && k > 0, op,
             "x must be float8_e4m3fn [..., " + std::to_string(k) + "], got " + words(x8));
  const int64_t m = x8.numel() / k;
  SF_REQUIRE(x_scale.scalar_type() == ScalarType::Float && x_scale.numel() == m, op,
             "x_scale must be float32 with " + std::to_string(m) + " elements, got " + words(x_scale));
  return m;
}

// The same for x in e4m3 and the scales of its rows, M of them: what torch.compile leaves of a layer when it fuses the
// quantising with what produces x.
Tensor linear_fp8_quantized(const Tensor& x, const Tensor& x_scale, const Tensor& values, const Tensor& positions,
                            const Tensor& scales, std::optional<Tensor> bias, std::optional<Tensor> residual,
                            int64_t in_features, std::string epilogue, ScalarType dtype, std::vector<int64_t> policy,
                            std::optional<Tensor> dense) {
  constexpr const char* op = "linear_fp8_quantized";
  const OnDevice guard(x.get_device_index());
  const int64_t m = rows_in_e4m3(op, x, x_scale, in_features), n = values.size(0);
  SF_REQUIRE(dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, op, "y must be bfloat16 or float16");
  const Epilogue ending = epilogue_of(op, epilogue, n, residual.has_value());
  const Layer layer{{values, positions, in_features}, scales, std::move(bias), std::move(residual), std::move(dense),
                    ending, dtype};
  layer.check(op, sizes_with_last(x, n), x.get_device_index());
  const Route chosen = route_of(op, layer.weight, policy, m, layer.ending.gated);
  return after_quantizing(op, {usable(x), usable(x_scale)}, m, layer, chosen);
}

// The same for a layer that another one in fp8 follows: y in e4m3 and the scales of its rows.
std::tuple<Tensor, Tensor> linear_fp8_requantized(const Tensor& x, const Tensor& x_scale, const Tensor& values,
                                                  const Tensor& positions, const Tensor& scales,
                                                  std::optional<Tensor> bias, int64_t in_features, std::string epilogue,
                                                  ScalarType dtype, std::vector<int64_t> policy,
                                                  std::optional<Tensor> dense) {
  constexpr const char* op = "linear_fp8_requantized";
  const OnDevice guard(x.get_device_index());
  const int64_t m = rows_in_e4m3(op, x, x_scale, in_features), n = values.size(0);
  SF_REQUIRE(dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, op, "y must be bfloat16 or float16");
  const Layer layer{{values, positions, in_features}, scales, std::move(bias), std::nullopt, std::move(dense),
                    epilogue_of(op, epilogue, n, false), dtype};
  layer.check(op, sizes_with_last(x, n), x.get_device_index());
  const Route chosen = route_of(op, layer.weight, policy, m, layer.ending.gated);
  const Quantized y = requantized(op, {usable(x), usable(x_scale)}, m, layer, chosen);
  return {y.x8, y.scale};
}

// The same for x both in 16 bits and in e4m3: a program for all numbers of rows has both from the kernel that makes x,
// and each route takes the one that it multiplies.
Tensor linear_fp8_both(const Tensor& x, const Tensor& x8, const Tensor& x_scale, const Tensor& values,
                       const Tensor& positions, const Tensor& scales, std::optional<Tensor> bias,
                       std::optional<Tensor> residual, int64_t in_features, std::string epilogue,
                       std::vector<int64_t> policy, std::optional<Tensor> dense) {
  constexpr const char* op = "linear_fp8_both";
  const OnDevice guard(x.get_device_index());
  const Tensor rows = rows_of(op, x, in_features);
  const int64_t m = rows_in_e4m3(op, x8, x_scale, in_features), n = values.size(0);
  SF_REQUIRE(rows.numel() == x8.numel() && x8.get_device_index() == rows.get_device_index(), op,
             "x and x8 must be the same rows, got " + words(x) + " and " + words(x8));
  const Epilogue ending = epilogue_of(op, epilogue, n, residual.has_value());
  const Layer layer{{values, positions, in_features}, scales, std::move(bias), std::move(residual), std::move(dense),
                    ending, x.scalar_type()};
  layer.check(op, sizes_with_last(x, n), rows.get_device_index());
  const Route chosen = route_of(op, layer.weight, policy, m, layer.ending.gated);
  if (by_skinny(chosen))
    return whole_by_skinny(op, rows, layer.weight, scales, layer.bias, layer.residual, layer.ending, chosen);
  return after_quantizing(op, {usable(x8), usable(x_scale)}, m, layer, chosen);
}

// raw [..., N] · w_scale [N] · x_scale [M], all rows of raw: what a layer does after cuSPARSELt's product, for the tuner.
Tensor rescale_fp8(const Tensor& raw, const Tensor& x_scale, const Tensor& w_scale) {
  constexpr const char* op = "rescale_fp8";
  const int device = raw.get_device_index();
  const int64_t n = raw.dim() ? raw.size(raw.dim() - 1) : 0, m = n ? raw.numel() / n : 0;
  SF_REQUIRE(raw.scalar_type() == ScalarType::BFloat16 && raw.is_contiguous() && n % 8 == 0 && n > 0, op,
             "raw must be contiguous bfloat16 [..., N] with N a multiple of 8, got " + words(raw));
  check_tensor(op, "x_scale", x_scale, ScalarType::Float, {m}, device);
  check_tensor(op, "w_scale", w_scale, ScalarType::Float, {n}, device);
  const OnDevice guard(device);
  const Tensor y = torch::stable::new_empty(raw, raw.sizes()), of_x = usable(x_scale), of_w = usable(w_scale);
  rescale({m, n, raw.const_data_ptr(), static_cast<const float*>(of_x.const_data_ptr()),
           static_cast<const float*>(of_w.const_data_ptr()), nullptr, nullptr, false, y.mutable_data_ptr(), Activation::none},
          stream_of(device));
  return y;
}

}  // namespace
}  // namespace sparseflow::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(sparseflow, m) {
  m.def(
      "linear_fp8_fused(Tensor x, Tensor values, Tensor positions, Tensor scales, Tensor? bias, Tensor? residual, "
      "int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor");
  m.def(
      "linear_fp8_quantized(Tensor x, Tensor x_scale, Tensor values, Tensor positions, Tensor scales, Tensor? bias, "
      "Tensor? residual, int in_features, str epilogue, ScalarType out_dtype, int[] policy, Tensor? dense=None) -> Tensor");
  m.def(
      "linear_fp8_requantized(Tensor x, Tensor x_scale, Tensor values, Tensor positions, Tensor scales, Tensor? bias, "
      "int in_features, str epilogue, ScalarType out_dtype, int[] policy, Tensor? dense=None) -> (Tensor y8, Tensor y_scale)");
  m.def(
      "linear_fp8_both(Tensor x, Tensor x8, Tensor x_scale, Tensor values, Tensor positions, Tensor scales, "
      "Tensor? bias, Tensor? residual, int in_features, str epilogue, int[] policy, Tensor? dense=None) -> Tensor");
  m.def("rescale_fp8(Tensor raw, Tensor x_scale, Tensor w_scale) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) {
  using namespace sparseflow::cuda;
  m.impl("product_fp8", TORCH_BOX(&product_fp8));
  m.impl("linear_fp8_fused", TORCH_BOX(&linear_fp8));
  m.impl("linear_fp8_quantized", TORCH_BOX(&linear_fp8_quantized));
  m.impl("linear_fp8_requantized", TORCH_BOX(&linear_fp8_requantized));
  m.impl("linear_fp8_both", TORCH_BOX(&linear_fp8_both));
  m.impl("rescale_fp8", TORCH_BOX(&rescale_fp8));
}
