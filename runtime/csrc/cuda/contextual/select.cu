#include "instructions.cuh"
//
#include "launch.cuh"
#include "select.cuh"

namespace sparseflow::cuda::contextual {

void select(const Selection& p, int device, void* stream) {
  if (p.m > 0) launch(select_rows, dim3(p.m), select_threads, p, device, stream);
  if (!p.per_row && p.m != 1) launch(unite, dim3(1), select_threads, p, device, stream);
}

}  // namespace sparseflow::cuda::contextual
