// Stands in for the kernels where the build found no CUDA compiler.
#include <stdexcept>

#include "decode.h"
#include "tiles.h"

namespace sparseflow::cuda::patterns {
namespace {

[[noreturn]] void absent() { throw std::runtime_error("sparseflow: built without CUDA kernels"); }

}  // namespace

std::string refusal(int, const Product&, int, int) { return "is not in this build, which was made without nvcc, or for CPUs alone"; }
int default_variant(const Product&, int, int) { return 0; }
int64_t scratch_bytes(int, const Product&, int, int) { return 0; }
void forget_devices() {}
void run(int, const Product&, int, bool, int, void*) { absent(); }
void to_tiles(const Extent&, const uint16_t*, const uint8_t*, uint8_t*, void*) { absent(); }
void to_portable(const Extent&, const uint8_t*, uint16_t*, uint8_t*, void*) { absent(); }
void to_dense(const Extent&, const uint8_t*, uint16_t*, void*) { absent(); }

}  // namespace sparseflow::cuda::patterns
