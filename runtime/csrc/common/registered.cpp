#include "registered.h"

#include <exception>

#include "common/aten.h"

namespace sparseflow {

Tensor run_registered(const Tensor& x, const Tensor& values, const Tensor& positions,
                      const std::optional<Tensor>& bias, const std::optional<Tensor>& residual, int64_t in_features,
                      const std::string& epilogue, const Choice& choice) {
  try {
    return call_aten("sparseflow::linear_registered", "", x, values, positions, bias, residual, in_features, epilogue,
                     choice.code);
  } catch (const std::exception&) {  // the stable ABI doesn't pass on the message
    refuse("linear", call_aten<std::string>("sparseflow::registered_failure", "", choice.code));
  }
}

}  // namespace sparseflow
