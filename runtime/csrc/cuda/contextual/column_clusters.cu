#include "instructions.cuh"
//
#include "../skinny/hopper_device.cuh"
//
#include "column_launch.cuh"

namespace sparseflow::cuda::contextual::clusters {
namespace {

// Narrow slabs need no wide tiles.
template <int Rows>
using Narrow = ColumnShape<512, 1, 8, Rows>;
template <int Rows>
using Broad = ColumnShape<512, 2, 4, Rows>;

bool narrow(const Columns& p, int device) {
  return p.n <= Narrow<1>::tile * std::max(1, processors(device) / kShares);
}

template <class F>
auto with_shape(const Columns& p, int device, F what) {
  const bool thin = narrow(p, device);
  if (p.m == 1) return thin ? what(Narrow<1>()) : what(Broad<1>());
  if (p.m == 2) return thin ? what(Narrow<2>()) : what(Broad<2>());
  return what(Narrow<kMostColumnRows>());
}

}  // namespace

bool takes(const Columns& p, int device) {
  return with_shape(p, device, [&](auto s) { return fits<decltype(s)>(p, device); });
}

void run(const Columns& p, bool half, int device, void* stream) {
  with_shape(p, device, [&](auto s) {
    using S = decltype(s);
    if (half) launch_columns<Fp16, S, BulkStream, true>(p, device, stream);
    else launch_columns<Bf16, S, BulkStream, true>(p, device, stream);
  });
}

}  // namespace sparseflow::cuda::contextual::clusters
