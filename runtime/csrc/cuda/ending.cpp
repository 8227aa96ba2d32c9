#include "ending.h"

#include "activate.h"
#include "cpu/args.h"
#include "driver.h"
#include "gate.h"
#include "layout.h"
#include "multiply.h"

namespace sparseflow::cuda {
namespace {

constexpr uintptr_t kAligned = 16;

// Whether our kernel applies an activation: torch's compute GELU in more instructions than the memory leaves time for.
bool by_own_kernel(const Tensor& y, Activation activation) {
  const bool slow = activation == Activation::gelu || activation == Activation::gelu_tanh;
  const bool sixteen_bits = y.scalar_type() == ScalarType::BFloat16 || y.scalar_type() == ScalarType::Half;
  return slow && sixteen_bits && kernels_built() && y.is_contiguous() && y.numel() % 8 == 0 &&
         reinterpret_cast<uintptr_t>(y.const_data_ptr()) % kAligned == 0;
}

}  // namespace

Tensor activated(const Tensor& y, Activation activation) {
  if (by_own_kernel(y, activation)) {
    activate({y.numel(), y.scalar_type() == ScalarType::Half, y.mutable_data_ptr(), activation},
             stream_of(y.get_device_index()));
    return y;
  }
  switch (activation) {
    case Activation::relu: return call_aten("aten::relu_", "", y);
    case Activation::silu: return call_aten("aten::silu_", "", y);
    case Activation::gelu: return call_aten("aten::gelu_", "", y, std::string("none"));
    case Activation::gelu_tanh: return call_aten("aten::gelu_", "", y, std::string("tanh"));
    case Activation::none:
    case Activation::relu2: break;
  }
  return y;
}

Tensor added(const Tensor& y, const std::optional<Tensor>& residual) {
  return residual ? torch::stable::subtract(y, *residual, -1.0) : y;  // the stable ABI has no add()
}

Tensor gated(const char* op, const Tensor& product, int64_t m, Activation activation) {
  const Tensor whole = usable(product);
  const int64_t n = whole.size(whole.dim() - 1) / 2;
  const Tensor y = torch::stable::new_empty(whole, sizes_with_last(whole, n));
  apply_gate({m, n, whole.const_data_ptr(), cpu::dtype_of(op, "y", y), y.mutable_data_ptr(), activation},
             stream_of(whole.get_device_index()));
  return y;
}

}  // namespace sparseflow::cuda
