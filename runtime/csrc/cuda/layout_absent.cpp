// Stands in for layout.cu where the build found no CUDA compiler.
#include <stdexcept>

#include "layout.h"

namespace sparseflow::cuda {
namespace {

[[noreturn]] void absent() {
  throw std::runtime_error(
      "sparseflow: built without CUDA kernels, for want of nvcc or for CPUs alone; "
      "install the CUDA toolkit and build again: pip install --no-build-isolation .");
}

}  // namespace

bool kernels_built() { return false; }
void to_device_positions(const Layout&, const uint8_t*, uint8_t*, void*) { absent(); }
void to_portable_positions(const Layout&, const uint8_t*, uint8_t*, void*) { absent(); }
void decompress(const Layout&, const void*, int64_t, const uint8_t*, void*, void*) { absent(); }

}  // namespace sparseflow::cuda
