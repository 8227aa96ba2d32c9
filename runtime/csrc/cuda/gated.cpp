#include "gated.h"

#include "cpu/args.h"
#include "driver.h"
#include "gate.h"

namespace sparseflow::cuda {

Tensor gated(const char* op, const Tensor& product, int64_t m, Activation activation) {
  const Tensor whole = usable(product);
  const int64_t n = whole.size(whole.dim() - 1) / 2;
  const Tensor y = torch::stable::new_empty(whole, sizes_with_last(whole, n));
  apply_gate({m, n, whole.const_data_ptr(), cpu::dtype_of(op, "y", y), y.mutable_data_ptr(), activation},
             stream_of(whole.get_device_index()));
  return y;
}

}  // namespace sparseflow::cuda
