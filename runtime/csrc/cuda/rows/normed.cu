#include "instructions.cuh"
//
#include "../skinny/launch.h"
#include "launch.cuh"
#include "normed.cuh"

namespace sparseflow::cuda {
namespace {

using namespace rows;

template <int Held>
auto kernel_for(bool quantizes) {
  return quantizes ? norm_held<Held, true> : norm_held<Held, false>;
}

}  // namespace

void norm_rows(const NormedRows& p, void* stream) {
  if (p.m == 0) return;
  const int64_t pieces = p.k / 8, held = pieces > kMostThreads ? 2 : 1;
  const auto kernel = held == 1 ? kernel_for<1>(p.scale) : kernel_for<2>(p.scale);
  const int threads = static_cast<int>((pieces + held * 32 - 1) / (held * 32) * 32);
  int device = 0, of_sm = 1;
  cudaGetDevice(&device);
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_sm, kernel, threads, 0);
  const int64_t places = int64_t(of_sm) * skinny::attribute(cudaDevAttrMultiProcessorCount, device);
  const int64_t rows = (p.m + places - 1) / places;
  launch(kernel, dim3(static_cast<unsigned>((p.m + rows - 1) / rows)), threads, stream, p, rows);
}

}  // namespace sparseflow::cuda
