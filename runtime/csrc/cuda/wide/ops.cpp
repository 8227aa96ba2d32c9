// sparseflow::wide_linear: products with many rows of x in e4m3 by the kernel of wide.h, for the tuner.
#include <torch/csrc/stable/library.h>

#include "../driver.h"
#include "../skinny/call.h"
#include "call.h"

namespace sparseflow::cuda {
namespace wide {
namespace {

constexpr int64_t kLargest = INT32_MAX / 2;

std::string refused_shape(const DeviceWeight& w, int64_t m, bool gated) {
  if (w.values.scalar_type() != ScalarType::Float8_e4m3fn)
    return "takes float8_e4m3fn, not " + std::string(torch::headeronly::toString(w.values.scalar_type()));
  const int64_t unit = gated ? 128 : 8;
  if (w.n() % unit)
    return "needs N to be a multiple of " + std::to_string(unit) + (gated ? " for a gate" : "") + ", got N=" + std::to_string(w.n());
  if (w.k == 0) return "takes no weights without columns";
  if (w.n() > kLargest || w.k > kLargest || m > kLargest) return "takes sizes up to " + std::to_string(kLargest);
  if (!kernels_built()) return "is not in this build, which was made without nvcc, or for CPUs alone";
  return "";
}

Product sizes_of(const DeviceWeight& w, int64_t m, bool gated) {
  Product p{};
  p.n = static_cast<int>(w.n());
  p.k = static_cast<int>(w.k);
  p.m = static_cast<int>(m);
  p.gated = gated;
  return p;
}

const float* floats(const std::optional<Tensor>& t) { return static_cast<const float*>(skinny::pointer(t)); }

}  // namespace

std::string refusal(const DeviceWeight& w, int64_t m, int64_t variant, bool gated) {
  if (std::string why = refused_shape(w, m, gated); !why.empty()) return why;
  if (variant < 0 || variant > kLargest) return "has no variant " + std::to_string(variant);
  return refusal(static_cast<int>(variant), sizes_of(w, m, gated), w.device());
}

Tensor product(const DeviceWeight& weight, const Tensor& x, int64_t m, const End& end, ScalarType out, int64_t variant) {
  Product p = sizes_of(weight, m, end.gated);
  Tensor y = torch::stable::new_empty(x, sizes_with_last(x, end.gated ? p.n / 2 : p.n), out);
  if (m == 0 || p.n == 0) return y;
  p.values = weight.values.const_data_ptr();
  p.positions = weight.positions.const_data_ptr();
  p.x = x.const_data_ptr();
  p.w_scale = floats(end.w_scale), p.x_scale = floats(end.x_scale);
  p.bias = skinny::pointer(end.bias), p.residual = skinny::pointer(end.residual);
  p.activation = end.activation;
  p.half = out == ScalarType::Half;
  p.y = y.mutable_data_ptr();
  run(p, static_cast<int>(variant), weight.device(), stream_of(weight.device()));
  return y;
}

}  // namespace wide

namespace {

// y [..., N] in bfloat16 = x · Wᵀ, both in e4m3.
Tensor wide_linear(const Tensor& x, const Tensor& values, const Tensor& positions, int64_t in_features, int64_t variant) {
  constexpr const char* op = "wide_linear";
  const Call call(op, x, {values, positions, in_features}, std::nullopt, std::nullopt, ScalarType::BFloat16);
  if (const std::string why = wide::refusal(call.weight, call.m, variant); !why.empty())
    refuse(op, "the kernel for many rows " + why);
  call.weight.check_whole(op);
  return wide::product(call.weight, call.x, call.m, {}, ScalarType::BFloat16, variant);
}

// Returns the number of variants, whose ids are 0 … count − 1; 0 if the product is empty or the kernel wasn't built.
int64_t wide_variants(int64_t n, int64_t k, int64_t m) {
  return kernels_built() && n > 0 && k > 0 && m > 0 ? wide::kVariants : 0;
}

}  // namespace
}  // namespace sparseflow::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(sparseflow, m) {
  m.def("wide_linear(Tensor x, Tensor values, Tensor positions, int in_features, int variant) -> Tensor");
  m.def("wide_variants(int n, int k, int m) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) { m.impl("wide_linear", TORCH_BOX(&sparseflow::cuda::wide_linear)); }

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) {
  m.impl("wide_variants", TORCH_BOX(&sparseflow::cuda::wide_variants));
}
