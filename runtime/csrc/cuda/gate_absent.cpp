// Stands in for gate.cu where the build found no CUDA compiler.
#include <stdexcept>

#include "gate.h"

namespace sparseflow::cuda {

void apply_gate(const Gated&, void*) {
  throw std::runtime_error(
      "sparseflow::linear: built without CUDA kernels, which a gated epilogue needs; "
      "install the CUDA toolkit and build again: pip install --no-build-isolation .");
}

}  // namespace sparseflow::cuda
