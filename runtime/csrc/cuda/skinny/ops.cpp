// sparseflow::skinny_linear: products with few rows of x by the own kernel.
#include <torch/csrc/stable/library.h>

#include "../driver.h"
#include "../multiply.h"
#include "skinny.h"

namespace sparseflow::cuda {
namespace {

constexpr const char* op = "skinny_linear";

skinny::Epilogue epilogue_of(const std::string& name) {
  static const char* const names[] = {"none", "relu", "gelu", "gelu_tanh", "silu"};
  for (int i = 0; i < 5; ++i)
    if (name == names[i]) return static_cast<skinny::Epilogue>(i);
  require(false, op, "epilogue must be none, relu, gelu, gelu_tanh or silu, got '" + name + "'");
  return skinny::Epilogue::none;
}

const void* pointer(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

void check(const Call& c) {
  const ScalarType dtype = c.x.scalar_type();
  const int64_t n = c.weight.n(), k = c.weight.k;
  require(dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, op,
          "x and values must be bfloat16 or float16, got " + words(c.x));
  require(n % 64 == 0 && k % 64 == 0 && n <= INT32_MAX / 2 && k <= INT32_MAX / 2, op,
          "N and K must be multiples of 64, got " + std::to_string(n) + " and " + std::to_string(k));
  for (const auto* t : {&c.bias, &c.residual})
    require(!*t || ((*t)->scalar_type() == dtype && (*t)->get_device_index() == c.x.get_device_index()), op,
            "bias and residual must have x's dtype and device");
  for (const Tensor& t : {c.weight.values, c.weight.positions})
    require(reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0, op,
            "values and positions must be aligned to 16 bytes");
}

Tensor linear(const Tensor& x, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
              std::optional<Tensor> residual, int64_t in_features, std::string epilogue, int64_t variant) {
  OnDevice guard(x);
  const Call c(op, x, {values, positions, in_features}, std::move(bias), std::move(residual));
  check(c);
  const int device = c.x.get_device_index();
  const auto n = static_cast<int>(c.weight.n()), k = static_cast<int>(c.weight.k);
  require(c.m <= INT32_MAX / 2, op, "too many rows: " + words(c.x));
  const auto m = static_cast<int>(c.m);
  Tensor y = torch::stable::new_empty(c.x, sizes_with_last(c.x, n));
  if (m == 0 || n == 0) return y;
  require(k > 0, op, "in_features must be positive");
  require(variant >= -1 && variant <= INT32_MAX, op, "no variant " + std::to_string(variant));
  const int chosen = variant == -1 ? skinny::default_variant(n, k, m, device) : static_cast<int>(variant);
  if (const std::string why = skinny::refusal(chosen, m, device); !why.empty()) require(false, op, why);
  skinny::Product p{values.const_data_ptr(), positions.const_data_ptr(), c.x.const_data_ptr(), pointer(c.bias),
                    pointer(c.residual),     y.mutable_data_ptr(),       nullptr,              n,
                    k,                       m,                          epilogue_of(epilogue)};
  std::optional<Tensor> partials;
  if (const int64_t count = skinny::partial_count(p, chosen, device)) {
    partials = torch::stable::new_empty(c.x, {count}, ScalarType::Float);
    p.partials = static_cast<float*>(partials->mutable_data_ptr());
  }
  skinny::run(p, c.x.scalar_type() == ScalarType::Half, chosen, device, stream_of(device));
  return y;
}

// How many variants there are; their ids are 0 … count − 1. 0 for shapes that the kernel doesn't take.
int64_t variant_count(int64_t n, int64_t k, int64_t m) {
  return kernels_built() && n % 64 == 0 && k % 64 == 0 && n > 0 && k > 0 && m > 0 ? skinny::variants : 0;
}

}  // namespace
}  // namespace sparseflow::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(sparseflow, m) {
  m.def(
      "skinny_linear(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, int in_features, "
      "str epilogue, int variant) -> Tensor");
  m.def("skinny_variants(int n, int k, int m) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) { m.impl("skinny_linear", TORCH_BOX(&sparseflow::cuda::linear)); }

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) {
  m.impl("skinny_variants", TORCH_BOX(&sparseflow::cuda::variant_count));
}
