#include "ending.h"

#include "cpu/args.h"
#include "driver.h"
#include "gate.h"
#include "multiply.h"

namespace sparseflow::cuda {

Tensor activated(const Tensor& y, Activation activation) {
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
