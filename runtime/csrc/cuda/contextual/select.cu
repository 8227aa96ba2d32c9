#include "instructions.cuh"
//
#include "launch.cuh"
#include "select.cuh"

namespace sparseflow::cuda::contextual {

void select(const Selection& p, int device, void* stream) {
  if (p.m > 0) launch(select_rows, dim3(p.m), kSelectThreads, p, device, stream);
  if (!p.per_row && p.m != 1) launch(unite, dim3(1), kSelectThreads, p, device, stream);
}

}  // namespace sparseflow::cuda::contextual
