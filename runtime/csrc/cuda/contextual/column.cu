#include "instructions.cuh"
//
#include "../skinny/hopper_device.cuh"
//
#include <algorithm>
#include <atomic>
#include <bit>
#include <type_traits>

#include "column.cuh"
#include "launch.cuh"

namespace sparseflow::cuda::contextual {
namespace {

constexpr int kMaskThreads = 256;
constexpr int kMostTiles = 65535;
constexpr int kMostShares = 16;
constexpr int kLargestCluster = 8;  // larger ones don't run on every GPU

int capability(int device) { return skinny::attribute(cudaDevAttrComputeCapabilityMajor, device); }

int tiles_of(const Columns& p) {
  const int columns = p.gated ? p.n / 2 : p.n, each = p.gated ? kTile / 2 : kTile;
  return (columns + each - 1) / each;
}

// How a product is launched.
struct Plan {
  int shares;    // of the inputs
  bool cluster;  // whether their sums meet in a cluster's shared memory
};

// In 16 bits about a block for each multiprocessor, which leaves room for the blocks of the next launch; in 8 bits two,
// which have as many bytes under way. Clusters of four and eight find no room on parts of a GPU that they would fill, and
// where they use much fewer blocks than fit, more shares meet in memory faster. All of this was measured on an H200, shape
// by shape.
Plan plan_of(const Columns& p, int device) {
  const int tiles = std::max(tiles_of(p), 1), slots = processors(device) * (p.scale ? 2 : 1);
  const int fit = std::min(slots / tiles, kMostShares), least = p.scale ? 1 : 2;
  const int cluster = fit ? std::min(static_cast<int>(std::bit_floor(static_cast<unsigned>(fit))), kLargestCluster) : least;
  const bool roomy = cluster <= 2 || cluster * tiles <= slots - slots / 4;
  if (capability(device) >= 9 && roomy && 10 * cluster >= 7 * fit) return {cluster, true};
  return {std::max(fit, 1), false};
}

template <class F>
auto with_rows(int m, F what) {
  if (m == 1) return what(std::integral_constant<int, 1>());
  if (m == 2) return what(std::integral_constant<int, 2>());
  return what(std::integral_constant<int, kMostColumnRows>());
}

int64_t partial_floats(const Columns& p, const Plan& plan, int rows) {
  return int64_t(plan.shares) * tiles_of(p) * rows * kTile;
}

template <class T, class W, int Rows, bool Cluster>
void launch_columns(const Columns& p, const Plan& plan, int device, void* stream) {
  static std::atomic<uint64_t> allowed{0};
  const auto kernel = multiply_columns<T, W, Rows, Cluster>;
  skinny::allow_shared_memory(reinterpret_cast<const void*>(kernel), allowed, kColumnBytes<Rows>, device);
  const auto shares = static_cast<unsigned>(plan.shares);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shares, static_cast<unsigned>(tiles_of(p)));
  config.blockDim = dim3(kColumnThreads);
  config.dynamicSmemBytes = kColumnBytes<Rows>;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {shares, 1, 1};
  config.attrs = attributes;
  config.numAttrs = Cluster ? 2 : capability(device) >= 9 ? 1 : 0;
  check_launch(cudaLaunchKernelEx(&config, kernel, p));
}

template <class T, class W>
void launch_for(const Columns& p, const Plan& plan, int device, void* stream) {
  with_rows(p.m, [&](auto rows) {
    if (plan.cluster) launch_columns<T, W, rows(), true>(p, plan, device, stream);
    else launch_columns<T, W, rows(), false>(p, plan, device, stream);
  });
}

template <class T>
void launch_over(const Columns& p, const Plan& plan, Bytes weight, int device, void* stream) {
  switch (weight) {
    case Bytes::i8: return launch_for<T, int8_t>(p, plan, device, stream);
    case Bytes::e4m3: return launch_for<T, E4m3>(p, plan, device, stream);
    default: return launch_for<T, T>(p, plan, device, stream);
  }
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

bool takes(const Columns& p, int device) { return capability(device) >= 8 && tiles_of(p) <= kMostTiles; }

int64_t column_scratch(const Columns& p, int device) {
  const Plan plan = plan_of(p, device);
  if (plan.cluster) return 0;
  return with_rows(p.m, [&](auto rows) { return partial_floats(p, plan, rows()) * 4 + int64_t(tiles_of(p)) * 8; });
}

void run(const Columns& whole, bool half, Bytes weight, int device, void* stream) {
  Columns p = whole;
  const Plan plan = plan_of(p, device);
  if (!plan.cluster) {
    const int rows = with_rows(p.m, [](auto rows) { return rows(); });
    p.counters = reinterpret_cast<uint64_t*>(p.partials + partial_floats(p, plan, rows));
    p.tag = skinny::hopper::counter_tag();
  }
  if (half) launch_over<Fp16>(p, plan, weight, device, stream);
  else launch_over<Bf16>(p, plan, weight, device, stream);
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
