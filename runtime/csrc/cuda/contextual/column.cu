#include "instructions.cuh"
//
#include "../skinny/hopper_device.cuh"
//
#include <algorithm>
#include <atomic>
#include <type_traits>

#include "column.cuh"
#include "launch.cuh"

namespace sparseflow::cuda::contextual {
namespace {

constexpr int kMaskThreads = 256;
constexpr int kMostTiles = 65535;
constexpr int kMostShares = 8;  // larger clusters don't fit everywhere
constexpr int kDeclared = 1024;  // bytes of shared memory that the kernel declares itself, at most

// The dynamic shared memory that a block can have.
int most_shared(int device) { return skinny::shared_memory_of(1, device) - kDeclared; }

int capability(int device) { return skinny::attribute(cudaDevAttrComputeCapabilityMajor, device); }

bool in_clusters(int device) { return capability(device) >= 9; }

int tiles_of(const Columns& p) { return (p.n + kTile - 1) / kTile; }

// As many blocks as run at once, two a multiprocessor.
int shares_of(const Columns& p, int device) {
  int shares = kMostShares;
  while (shares > 1 && shares * tiles_of(p) > 2 * processors(device)) shares /= 2;
  return shares;
}

int room_of(const Columns& p, int device) {
  const int shares = shares_of(p, device);
  return (p.k + shares - 1) / shares;
}

template <int Rows>
int shared_bytes(const Columns& p, int device) {
  return kSumBytes + box_bytes(Rows) + list_bytes<Rows>(room_of(p, device)) + p.m * p.pieces * 16;
}

template <class F>
auto with_rows(int m, F what) {
  if (m == 1) return what(std::integral_constant<int, 1>());
  if (m == 2) return what(std::integral_constant<int, 2>());
  return what(std::integral_constant<int, kMostColumnRows>());
}

int64_t partial_floats(const Columns& p, int rows, int device) {
  return int64_t(shares_of(p, device)) * tiles_of(p) * rows * kTile;
}

template <class T, int Rows, bool Cluster>
void launch_columns(const Columns& p, int device, void* stream) {
  static std::atomic<uint64_t> allowed{0};
  const auto kernel = multiply_columns<T, Rows, Cluster>;
  skinny::allow_shared_memory(reinterpret_cast<const void*>(kernel), allowed, most_shared(device), device);
  const auto shares = static_cast<unsigned>(shares_of(p, device));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shares, static_cast<unsigned>(tiles_of(p)));
  config.blockDim = dim3(kColumnThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes<Rows>(p, device));
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {shares, 1, 1};
  config.attrs = attributes;
  config.numAttrs = Cluster ? 2 : 0;
  check_launch(cudaLaunchKernelEx(&config, kernel, p));
}

template <class T, int Rows>
void launch_for(const Columns& p, int device, void* stream) {
  if (in_clusters(device)) launch_columns<T, Rows, true>(p, device, stream);
  else launch_columns<T, Rows, false>(p, device, stream);
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
  if (capability(device) < 8 || tiles_of(p) > kMostTiles) return false;
  return with_rows(p.m, [&](auto rows) { return shared_bytes<rows()>(p, device) <= most_shared(device); });
}

int64_t column_scratch(const Columns& p, int device) {
  if (in_clusters(device)) return 0;
  return with_rows(p.m, [&](auto rows) { return partial_floats(p, rows(), device) * 4 + int64_t(tiles_of(p)) * 8; });
}

void run(const Columns& whole, bool half, int device, void* stream) {
  Columns p = whole;
  p.room = room_of(p, device);
  with_rows(p.m, [&](auto rows) {
    if (!in_clusters(device)) {
      p.counters = reinterpret_cast<uint64_t*>(p.partials + partial_floats(p, rows(), device));
      p.tag = skinny::hopper::counter_tag();
    }
    if (half) launch_for<Fp16, rows()>(p, device, stream);
    else launch_for<Bf16, rows()>(p, device, stream);
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
