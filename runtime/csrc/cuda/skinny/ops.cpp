// sparseflow::skinny_linear: products with few rows of x by the own kernel.
#include <torch/csrc/stable/library.h>

#include "../driver.h"
#include "cpu/args.h"
#include "call.h"
#include "skinny.h"

namespace sparseflow::cuda {
namespace skinny {

// cpu/kernels.h has them in another order.
Epilogue epilogue_of(cpu::Epilogue epilogue) {
  switch (epilogue) {
    case cpu::Epilogue::relu: return Epilogue::relu;
    case cpu::Epilogue::gelu: return Epilogue::gelu;
    case cpu::Epilogue::gelu_tanh: return Epilogue::gelu_tanh;
    case cpu::Epilogue::silu: return Epilogue::silu;
    case cpu::Epilogue::none: break;
  }
  return Epilogue::none;
}

const void* pointer(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

namespace {

constexpr int64_t largest = INT32_MAX / 2;

std::string refused_shape(const DeviceWeight& w, int64_t m) {
  const ScalarType dtype = w.values.scalar_type();
  if (dtype != ScalarType::BFloat16 && dtype != ScalarType::Half)
    return "takes bfloat16 and float16, not " + std::string(torch::headeronly::toString(dtype));
  if (w.n() % 64 || w.k % 64 || w.k == 0)
    return "needs N and K to be multiples of 64, got N=" + std::to_string(w.n()) + ", K=" + std::to_string(w.k);
  if (w.n() > largest || w.k > largest || m > largest) return "takes sizes up to " + std::to_string(largest);
  if (!kernels_built()) return "is not in this build, because no nvcc was found when it was built";
  return "";
}

int variant_for(const DeviceWeight& w, int64_t m, int64_t variant) {
  if (variant != -1) return static_cast<int>(variant);
  return default_variant(static_cast<int>(w.n()), static_cast<int>(w.k), static_cast<int>(m), w.device());
}

}  // namespace

std::string refusal(const DeviceWeight& w, int64_t m, int64_t variant) {
  if (std::string why = refused_shape(w, m); !why.empty()) return why;
  if (variant < -1 || variant > largest) return "has no variant " + std::to_string(variant);
  return m == 0 ? "" : refusal(variant_for(w, m, variant), static_cast<int>(m), w.device());
}

Tensor product(const Call& c, cpu::Epilogue epilogue, int64_t variant) {
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
            .epilogue = epilogue_of(epilogue)};
  Tensor y = torch::stable::new_empty(c.x, sizes_with_last(c.x, n));
  if (y.numel() == 0) return y;
  p.y = y.mutable_data_ptr();
  const int chosen = variant_for(c.weight, c.m, variant);
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
  if (const std::string why = skinny::refusal(call.weight, call.m, variant); !why.empty())
    require(false, op, "the kernel for few rows " + why);
  require(call.weight.aligned(), op, "values and positions must be aligned to 16 bytes");
  return skinny::product(call, cpu::epilogue_of(op, epilogue), variant);
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
