#include "instructions.cuh"
//
#include "launch.cuh"
#include "normed.cuh"

namespace sparseflow::cuda {
namespace {

using namespace rows;

template <bool Quantizes>
auto kernel_for(int64_t pieces) {
  if (pieces <= 2) return norm_held<2, Quantizes>;
  if (pieces <= 3) return norm_held<3, Quantizes>;
  return pieces <= 5 ? norm_held<5, Quantizes> : norm_held<8, Quantizes>;
}

}  // namespace

void norm_rows(const NormedRows& p, void* stream) {
  if (p.m == 0) return;
  const int64_t pieces = (p.k + 8 * kNormThreads - 1) / (8 * kNormThreads);
  const auto kernel = p.scale ? kernel_for<true>(pieces) : kernel_for<false>(pieces);
  launch(kernel, dim3(static_cast<unsigned>(p.m)), kNormThreads, stream, p);
}

}  // namespace sparseflow::cuda
