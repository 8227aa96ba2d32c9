#include "instructions.cuh"
//
#include "../skinny/hopper_device.cuh"
//
#include "column_launch.cuh"

namespace sparseflow::cuda::contextual {
namespace {

constexpr int kMaskThreads = 256;

// The first kernels that run anywhere from sm_80 on.
template <int Rows>
using Shape = ColumnShape<512, 1, 8, Rows>;

bool in_clusters(int device) { return skinny::attribute(cudaDevAttrComputeCapabilityMajor, device) >= 9; }

template <class F>
auto with_rows(int m, F what) {
  if (m == 1) return what(std::integral_constant<int, 1>());
  if (m == 2) return what(std::integral_constant<int, 2>());
  return what(std::integral_constant<int, kMostColumnRows>());
}

int64_t partial_floats(const Columns& p, int rows, int tile) {
  return int64_t(kShares) * slabs_of(p) * p.tiles * rows * tile;
}

template <class T>
__global__ void __launch_bounds__(kMaskThreads) mask_inputs(const Mask p) {
  wait_for_previous();
  let_next_start();
  for (int64_t i = blockIdx.x * int64_t(kMaskThreads) + threadIdx.x; i < p.size; i += int64_t(gridDim.x) * kMaskThreads) {
    const float v = element<T>(p.x, i);
    store<T>(p.y, i, fabsf(v) < p.threshold ? 0 : v);
  }
}

}  // namespace

uint32_t limit_for(float threshold, bool half) {
  const uint32_t bits = half ? __half_as_ushort(__float2half_ru(threshold))
                             : __bfloat16_as_ushort(__float2bfloat16_ru(threshold));
  return bits | bits << 16;
}

bool takes(const Columns& p, int device) {
  if (in_clusters(device)) return clusters::takes(p, device);
  if (skinny::attribute(cudaDevAttrComputeCapabilityMajor, device) < 8) return false;
  return with_rows(p.m, [&](auto rows) { return fits<Shape<rows()>>(p, device); });
}

int64_t column_scratch(const Columns& sizes, int device) {
  if (in_clusters(device)) return 0;
  return with_rows(sizes.m, [&](auto rows) {
    Columns p = sizes;
    cut(p, Shape<rows()>::tile, device);
    return partial_floats(p, rows(), Shape<rows()>::tile) * 4 + int64_t(slabs_of(p)) * p.tiles * 8;
  });
}

void run(const Columns& whole, bool half, int device, void* stream) {
  if (in_clusters(device)) return clusters::run(whole, half, device, stream);
  with_rows(whole.m, [&](auto rows) {
    using S = Shape<rows()>;
    Columns p = whole;
    cut(p, S::tile, device);
    p.counters = reinterpret_cast<uint64_t*>(p.partials + partial_floats(p, rows(), S::tile));
    p.tag = skinny::hopper::counter_tag();
    if (half) launch_columns<Fp16, S, CopyStream, false>(p, device, stream);
    else launch_columns<Bf16, S, CopyStream, false>(p, device, stream);
  });
}

void mask(const Mask& p, Stored x, int device, void* stream) {
  const auto blocks = static_cast<unsigned>(std::clamp<int64_t>((p.size + kMaskThreads - 1) / kMaskThreads, 1, 1024));
  switch (x) {
    case Stored::f32: return launch(mask_inputs<float>, {blocks}, kMaskThreads, p, device, stream);
    case Stored::bf16: return launch(mask_inputs<Bf16>, {blocks}, kMaskThreads, p, device, stream);
    default: return launch(mask_inputs<Fp16>, {blocks}, kMaskThreads, p, device, stream);
  }
}

}  // namespace sparseflow::cuda::contextual
