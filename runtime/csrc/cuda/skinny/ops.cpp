// sparseflow::skinny_linear: products with few rows of x by the own kernel.
#include <torch/csrc/stable/library.h>

#include "../driver.h"
#include "call.h"
#include "skinny.h"

namespace sparseflow::cuda {
namespace skinny {
namespace {

constexpr int64_t largest = INT32_MAX / 2;

Epilogue epilogue_of(const char* op, const std::string& name) {
  static const char* const names[] = {"none", "relu", "gelu", "gelu_tanh", "silu"};
  for (int i = 0; i < 5; ++i)
    if (name == names[i]) return static_cast<Epilogue>(i);
  require(false, op, "epilogue must be none, relu, gelu, gelu_tanh or silu, got '" + name + "'");
  return Epilogue::none;
}

const void* pointer(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

void check(const char* op, const Call& c) {
  const ScalarType dtype = c.x.scalar_type();
  const int64_t n = c.weight.n(), k = c.weight.k;
  require(dtype == ScalarType::BFloat16 || dtype == ScalarType::Half, op,
          "x and values must be bfloat16 or float16, got " + words(c.x));
  require(n % 64 == 0 && k % 64 == 0 && k > 0, op,
          "N and K must be multiples of 64, got " + std::to_string(n) + " and " + std::to_string(k));
  require(n <= largest && k <= largest && c.m <= largest, op, "x or the weight is too large, got x " + words(c.x));
  for (const Tensor* t : {&c.weight.values, &c.weight.positions})
    require(reinterpret_cast<uintptr_t>(t->const_data_ptr()) % 16 == 0, op,
            "values and positions must be aligned to 16 bytes");
}

}  // namespace

Tensor product(const char* op, const Call& c, const std::string& epilogue, int64_t variant) {
  check(op, c);
  const int device = c.x.get_device_index();
  const auto n = static_cast<int>(c.weight.n()), k = static_cast<int>(c.weight.k), m = static_cast<int>(c.m);
  Product p{.values = c.weight.values.const_data_ptr(),
            .places = c.weight.positions.const_data_ptr(),
            .x = c.x.const_data_ptr(),
            .bias = pointer(c.bias),
            .residual = pointer(c.residual),
            .n = n,
            .k = k,
            .m = m,
            .epilogue = epilogue_of(op, epilogue)};
  Tensor y = torch::stable::new_empty(c.x, sizes_with_last(c.x, n));
  if (y.numel() == 0) return y;
  p.y = y.mutable_data_ptr();
  require(variant >= -1 && variant <= largest, op, "there is no variant " + std::to_string(variant));
  const int chosen = variant == -1 ? default_variant(n, k, m, device) : static_cast<int>(variant);
  if (const std::string why = refusal(chosen, m, device); !why.empty()) require(false, op, why);
  std::optional<Tensor> partials;
  if (const int64_t count = partial_count(p, chosen, device)) {
    partials = torch::stable::new_empty(c.x, {count}, ScalarType::Float);
    p.partials = static_cast<float*>(partials->mutable_data_ptr());
  }
  run(p, c.x.scalar_type() == ScalarType::Half, chosen, device, stream_of(device));
  return y;
}

}  // namespace skinny

namespace {

Tensor skinny_linear(const Tensor& x, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
                     std::optional<Tensor> residual, int64_t in_features, std::string epilogue, int64_t variant) {
  constexpr const char* op = "skinny_linear";
  const Call call(op, x, {values, positions, in_features}, std::move(bias), std::move(residual), x.scalar_type());
  return skinny::product(op, call, epilogue, variant);
}

// How many variants there are; their ids are 0 … count − 1. 0 for shapes that the kernel doesn't take.
int64_t skinny_variants(int64_t n, int64_t k, int64_t m) {
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

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) { m.impl("skinny_linear", TORCH_BOX(&sparseflow::cuda::skinny_linear)); }

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) {
  m.impl("skinny_variants", TORCH_BOX(&sparseflow::cuda::skinny_variants));
}
