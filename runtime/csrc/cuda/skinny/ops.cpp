// sparseflow::skinny_linear: products with few rows of x by the skinny kernel.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../driver.h"
#include "call.h"
#include "common/epilogue.h"
#include "skinny.h"

namespace sparseflow::cuda {
namespace skinny {

const void* pointer(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

namespace {

constexpr int64_t kLargest = INT32_MAX / 2;

bool in_e4m3(const DeviceWeight& w) { return w.values.scalar_type() == ScalarType::Float8_e4m3fn; }

std::string refused_shape(const DeviceWeight& w, int64_t m, bool gated) {
  const ScalarType dtype = w.values.scalar_type();
  if (dtype != ScalarType::BFloat16 && dtype != ScalarType::Half && !in_e4m3(w))
    return "takes bfloat16, float16 and float8_e4m3fn, not " + std::string(torch::headeronly::toString(dtype));
  if (w.k == 0) return "takes no weights without columns";
  if (gated && w.n() % 128) return "needs N to be a multiple of 128 for a gate, got N=" + std::to_string(w.n());
  if (w.n() > kLargest || w.k > kLargest || m > kLargest) return "takes sizes up to " + std::to_string(kLargest);
  if (!kernels_built()) return "is not in this build, which was made without nvcc, or for CPUs alone";
  return "";
}

// Returns the sizes for the kernel: K padded, and N rounded up to the eight elements of y that are written at a time.
Product sizes_of(const DeviceWeight& w, int64_t m, bool gated) {
  const Layout layout = w.layout();
  Product p{};
  p.n = static_cast<int>((layout.n + 7) / 8 * 8);
  p.k = static_cast<int>(layout.padded_k());
  p.m = static_cast<int>(m);
  p.gated = gated;
  p.e4m3 = in_e4m3(w);
  return p;
}

int variant_for(const Product& sizes, int64_t variant, int device) {
  return variant == kDefaultChoice ? default_variant(sizes, device) : static_cast<int>(variant);
}

}  // namespace

std::string refusal(const DeviceWeight& w, int64_t m, int64_t variant, bool gated) {
  if (std::string why = refused_shape(w, m, gated); !why.empty()) return why;
  if (variant < kDefaultChoice || variant > kLargest) return "has no variant " + std::to_string(variant);
  const Product sizes = sizes_of(w, m, gated);
  return m == 0 ? "" : refusal(variant_for(sizes, variant, w.device()), sizes, w.device());
}

Tensor product(const Call& c, Activation activation, int64_t variant, bool gated) {
  return product(c, activation, variant, gated, {}).y;
}

Result product(const Call& c, Activation activation, int64_t variant, bool gated, const Norms& norms) {
  const int device = c.x.get_device_index();
  Product p = sizes_of(c.weight, c.m, gated);
  const int64_t m = c.m, k = c.weight.k, n = c.weight.n(), out = gated ? n / 2 : n, padded_out = gated ? out : p.n;
  const std::vector<int64_t> sizes = sizes_with_last(c.x, out);
  Result result{torch::stable::new_empty(c.x, out == padded_out ? sizes : std::vector<int64_t>{m, padded_out}), {}, {}};
  if (norms.weight) {
    result.x = torch::stable::new_empty(c.x, sizes);
    result.squares = torch::stable::new_empty(c.x, {m, n / 8}, ScalarType::Float);
    p.after = {norms.weight->const_data_ptr(), result.x->mutable_data_ptr(),
               static_cast<float*>(result.squares->mutable_data_ptr())};
  }
  if (norms.squares)
    p.before = {static_cast<const float*>(norms.squares->const_data_ptr()), static_cast<float>(norms.eps)};
  if (m == 0 || n == 0) return {torch::stable::view(result.y, sizes), result.x, result.squares};
  const Tensor x = padded(c.x, m, k, m, p.k);
  std::optional<Tensor> bias = c.bias, residual = c.residual, scale = c.scale;
  if (bias) bias = padded(*bias, 1, n, 1, p.n);
  if (scale) scale = padded(*scale, 1, n, 1, p.n);
  if (residual) residual = padded(*residual, m, n, m, p.n);
  p.values = c.weight.values.const_data_ptr();
  p.positions = c.weight.positions.const_data_ptr();
  p.x = x.const_data_ptr();
  p.bias = pointer(bias);
  p.scales = static_cast<const float*>(pointer(scale));
  p.residual = pointer(residual);
  p.activation = activation;
  p.y = result.y.mutable_data_ptr();
  const int chosen = variant_for(p, variant, device);
  std::optional<Tensor> partials;
  if (const int64_t count = partial_count(p, chosen, device)) {
    partials = torch::stable::new_empty(c.x, {count}, ScalarType::Float);
    p.partials = static_cast<float*>(partials->mutable_data_ptr());
  }
  run(p, c.x.scalar_type() == ScalarType::Half, chosen, device, stream_of(device));
  if (out != padded_out) result.y = cropped(result.y, m, out, sizes);
  return result;
}

}  // namespace skinny

namespace {

void check_taken(const char* op, const Call& call, int64_t variant, bool gated) {
  if (const std::string why = skinny::refusal(call.weight, call.m, variant, gated); !why.empty())
    refuse(op, "the kernel for few rows " + why);
  // If nothing is padded, the kernel reads only the tensors themselves.
  const Layout layout = call.weight.layout();
  const bool bare = layout.n % 8 == 0 && layout.k == layout.padded_k() && call.weight.values.is_contiguous();
  if (!bare || !call.weight.aligned()) call.weight.check_whole(op);
}

// The dtype that x must have.
ScalarType dtype_of_x(const char* op, const Tensor& x, const Tensor& values, const std::optional<Tensor>& scales) {
  const ScalarType dtype = x.scalar_type();
  const bool e4m3 = values.scalar_type() == ScalarType::Float8_e4m3fn;
  SF_REQUIRE(e4m3 || !scales, op, "scales belong to values in float8_e4m3fn, got " + words(values));
  if (!e4m3) return values.scalar_type();
  SF_REQUIRE(dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, op,
             "for values in float8_e4m3fn x must be bfloat16 or float16, got " + words(x));
  return dtype;
}

// The scales of a weight's rows, as the kernel can read them.
std::optional<Tensor> checked_scales(const char* op, const std::optional<Tensor>& scales, const DeviceWeight& weight) {
  if (!scales) return scales;
  check_tensor(op, "scales", *scales, ScalarType::Float, {weight.n()}, weight.device());
  return usable(*scales);
}

Tensor skinny_linear(const Tensor& x, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
                     std::optional<Tensor> residual, int64_t in_features, std::string epilogue, int64_t variant,
                     std::optional<Tensor> scales) {
  constexpr const char* op = "skinny_linear";
  const ScalarType dtype = dtype_of_x(op, x, values, scales);
  Call call(op, x, {values, positions, in_features}, std::move(bias), std::move(residual), dtype, dtype);
  call.scale = checked_scales(op, scales, call.weight);
  check_taken(op, call, variant, false);
  return skinny::product(call, activation_of(op, epilogue), variant, false);
}

// activation(g) ⊙ u for the halves g and u of x · Wᵀ + bias.
Tensor skinny_gated_linear(const Tensor& x, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
                           int64_t in_features, std::string epilogue, int64_t variant, std::optional<Tensor> scales) {
  constexpr const char* op = "skinny_gated_linear";
  const ScalarType dtype = dtype_of_x(op, x, values, scales);
  Call call(op, x, {values, positions, in_features}, std::move(bias), std::nullopt, dtype, dtype);
  call.scale = checked_scales(op, scales, call.weight);
  check_taken(op, call, variant, true);
  return skinny::product(call, activation_of(op, epilogue), variant, true);
}

// Throws unless norms can be computed by the variant: on sm_90, of a weight that isn't padded, with few rows.
void check_norms(const char* op, const Call& call, int64_t variant, bool gated, const skinny::Norms& norms) {
  const Layout layout = call.weight.layout();
  SF_REQUIRE(layout.n % 8 == 0 && layout.k == layout.padded_k(), op,
             "beside a norm N must be a multiple of 8 and K of 64, got " + std::to_string(layout.n) + " and " + std::to_string(layout.k));
  check_taken(op, call, variant, gated);
  if (norms.squares) {
    check_tensor(op, "squares", *norms.squares, ScalarType::Float, {call.m, layout.k / 8}, call.weight.device());
    SF_REQUIRE(call.m <= skinny::kMostNormedRows, op, "takes up to " + std::to_string(skinny::kMostNormedRows) + " rows");
    SF_REQUIRE(variant >= skinny::kPortableVariants, op, "needs a variant from " + std::to_string(skinny::kPortableVariants) + " on");
  }
}

// The layer's result for x that a norm makes but for a factor of its row: x = stream ⊙ weight, and the parts of each row's
// sum of squares.
Tensor skinny_after_norm(const Tensor& x, const Tensor& squares, double eps, const Tensor& values, const Tensor& positions,
                         std::optional<Tensor> bias, int64_t in_features, std::string epilogue, int64_t variant) {
  constexpr const char* op = "skinny_after_norm";
  const ScalarType dtype = values.scalar_type();
  Call call(op, x, {values, positions, in_features}, std::move(bias), std::nullopt, dtype, dtype);
  const Epilogue end = epilogue_of(op, epilogue, values.size(0), false);
  const Tensor parts = usable(squares);
  const skinny::Norms norms{&parts, eps, nullptr};
  check_norms(op, call, variant, end.gated, norms);
  return skinny::product(call, end.activation, variant, end.gated, norms).y;
}

// y = x · Wᵀ + bias + residual; y ⊙ weight, which a norm of y gives but for a factor of its row; and the parts of the sum of
// squares of each row of y.
std::tuple<Tensor, Tensor, Tensor> skinny_before_norm(const Tensor& x, const Tensor& values, const Tensor& positions,
                                                      std::optional<Tensor> bias, std::optional<Tensor> residual,
                                                      const Tensor& weight, int64_t in_features, int64_t variant) {
  constexpr const char* op = "skinny_before_norm";
  const ScalarType dtype = values.scalar_type();
  Call call(op, x, {values, positions, in_features}, std::move(bias), std::move(residual), dtype, dtype);
  check_tensor(op, "weight", weight, dtype, {values.size(0)}, call.weight.device());
  const Tensor of_norm = usable(weight);
  const skinny::Norms norms{nullptr, 0, &of_norm};
  check_norms(op, call, variant, false, norms);
  skinny::Result result = skinny::product(call, Activation::none, variant, false, norms);
  return {result.y, *result.x, *result.squares};
}

// Returns the number of variants, whose ids are 0 … count − 1; 0 if the product is empty or the kernel wasn't built.
int64_t skinny_variants(int64_t n, int64_t k, int64_t m) {
  return kernels_built() && n > 0 && k > 0 && m > 0 ? skinny::kVariants : 0;
}

}  // namespace
}  // namespace sparseflow::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(sparseflow, m) {
  m.def(
      "skinny_linear(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, int in_features, "
      "str epilogue, int variant, Tensor? scales=None) -> Tensor");
  m.def(
      "skinny_gated_linear(Tensor x, Tensor values, Tensor positions, Tensor? bias, int in_features, str epilogue, "
      "int variant, Tensor? scales=None) -> Tensor");
  m.def(
      "skinny_after_norm(Tensor x, Tensor squares, float eps, Tensor values, Tensor positions, Tensor? bias, "
      "int in_features, str epilogue, int variant) -> Tensor");
  m.def(
      "skinny_before_norm(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, Tensor weight, "
      "int in_features, int variant) -> (Tensor y, Tensor x, Tensor squares)");
  m.def("skinny_variants(int n, int k, int m) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) {
  m.impl("skinny_linear", TORCH_BOX(&sparseflow::cuda::skinny_linear));
  m.impl("skinny_gated_linear", TORCH_BOX(&sparseflow::cuda::skinny_gated_linear));
  m.impl("skinny_after_norm", TORCH_BOX(&sparseflow::cuda::skinny_after_norm));
  m.impl("skinny_before_norm", TORCH_BOX(&sparseflow::cuda::skinny_before_norm));
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) {
  m.impl("skinny_variants", TORCH_BOX(&sparseflow::cuda::skinny_variants));
}
