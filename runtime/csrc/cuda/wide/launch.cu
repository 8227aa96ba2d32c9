#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../layout.h"
#include "../skinny/launch.h"
#include "../tensor_map.h"
#include "kernels.h"
#include "wide.h"

namespace sparseflow::cuda::wide {
namespace {

using skinny::attribute;

constexpr const char* kOp = "wide_linear";
constexpr int kMaxSlots = 16;
constexpr int kBand = 8;  // tiles along x, so that what runs at a time reads few rows of either operand

const Kernel& kernel_for(int variant) {
  return variant < kLarge ? large_kernels[static_cast<size_t>(variant)] : small_kernels[static_cast<size_t>(variant - kLarge)];
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("sparseflow::") + kOp + " did not launch: " + cudaGetErrorString(error));
}

int divided(int64_t v, int64_t by) { return static_cast<int>((v + by - 1) / by); }

// What a block needs besides stages: its base may have to move to a multiple of 1024 bytes.
int fixed_bytes(const Kernel& kernel) { return 1024 + kernel.staging_bytes; }

// Returns the number of stages that fit; fewer than two aren't enough.
int slots_for(const Kernel& kernel, int device) {
  const int room = skinny::shared_memory_of(kernel.per_sm, device) - fixed_bytes(kernel);
  const int slots = std::min(kMaxSlots, room / (kernel.stage_bytes + 16));
  return kernel.sum_bytes + 16 * slots <= room ? slots : 0;
}

int bytes_of(const Kernel& kernel, int slots) {
  return fixed_bytes(kernel) + std::max(slots * kernel.stage_bytes, kernel.sum_bytes) + 16 * slots;
}

Layout layout_of(const Product& p) { return {p.n, p.k, 1}; }

int stages_of(const Product& p) { return divided(layout_of(p).padded_k(), kStageK); }

cuuint32_t u32(int v) { return static_cast<cuuint32_t>(v); }
cuuint64_t u64(int64_t v) { return static_cast<cuuint64_t>(v); }

// W by 16 rows: those that follow each other, or with a gate 8 rows of each half.
CUtensorMap map_of_values(const Kernel& kernel, const Product& p) {
  const Layout layout = layout_of(p);
  const int64_t row = layout.padded_k() / 2, sixteens = (p.gated ? layout.n : layout.padded_n()) / 16;
  return tensor_map<4>(kOp, {p.values, CU_TENSOR_MAP_DATA_TYPE_UINT8, {u64(row), 8, 2, u64(sixteens)},
                             {u64(row), u64(p.gated ? p.n / 2 * row : 8 * row), u64(p.gated ? 8 * row : 16 * row)},
                             {kStageK / 2, 8, 2, u32(kernel.rows() / 16)},
                             CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B});
}

CUtensorMap map_of_x(const Kernel& kernel, const Product& p) {
  return tensor_map<2>(kOp, {p.x, CU_TENSOR_MAP_DATA_TYPE_UINT8, {u64(p.k), u64(p.m)}, {u64(p.k)},
                             {kStageK, u32(kernel.columns)}, CU_TENSOR_MAP_SWIZZLE_128B,
                             CU_TENSOR_MAP_L2_PROMOTION_L2_256B});
}

TileCall call_of(const Kernel& kernel, const Product& p, int slots) {
  const Layout layout = layout_of(p);
  const int n = p.gated ? p.n / 2 : p.n;
  TileCall c{map_of_values(kernel, p), map_of_x(kernel, p)};
  c.positions = static_cast<const uint8_t*>(p.positions);
  c.strip_bytes = layout.tiles_across() * 32 * layout.tile_groups();
  c.strips = static_cast<int>(layout.padded_n() / 64);
  c.up_strip = p.n / 128;
  c.m = p.m, c.n = n;
  c.stages = stages_of(p);
  c.w_tiles = divided(n, p.gated ? kernel.rows() / 2 : kernel.rows());
  c.x_tiles = divided(p.m, kernel.columns);
  c.band = kBand;
  c.slots = slots;
  c.w_scale = p.w_scale, c.x_scale = p.x_scale;
  c.bias = p.bias, c.residual = p.residual, c.y = p.y;
  c.activation = p.activation, c.half = p.half, c.gated = p.gated;
  return c;
}

}  // namespace

const int kVariants = kLarge + kSmall;

std::string refusal(int variant, const Product& p, int device) {
  if (variant < 0 || variant >= kVariants)
    return "has the variants 0 to " + std::to_string(kVariants - 1) + ", got " + std::to_string(variant);
  if (attribute(cudaDevAttrComputeCapabilityMajor, device) != 9) return "runs on sm_90 only";
  if (!has_tensor_maps()) return "needs cuTensorMapEncodeTiled, which this driver lacks";
  if (p.k % 16) return "needs K to be a multiple of 16, got K=" + std::to_string(p.k);
  const Kernel& kernel = kernel_for(variant);
  const std::string name = std::to_string(variant);
  if (p.gated && kernel.groups % 2) return "has no gate in variant " + name;
  if (stages_of(p) < kernel.shares)
    return "needs in variant " + name + " K to be at least " + std::to_string(kernel.shares * kStageK);
  if (slots_for(kernel, device) < 2) return "needs in variant " + name + " more shared memory than this GPU has";
  return "";
}

void forget_devices() {
  for (int variant = 0; variant < kVariants; ++variant) *kernel_for(variant).ready = 0;
}

void run(const Product& p, int variant, int device, void* stream) {
  const Kernel& kernel = kernel_for(variant);
  const int slots = slots_for(kernel, device), bytes = bytes_of(kernel, slots);
  const TileCall call = call_of(kernel, p, slots);
  const int places = attribute(cudaDevAttrMultiProcessorCount, device) * kernel.per_sm, tiles = call.w_tiles * call.x_tiles;
  const auto shares = static_cast<unsigned>(kernel.shares);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shares * static_cast<unsigned>(shares > 1 ? tiles : std::min(tiles, places)));
  config.blockDim = dim3(static_cast<unsigned>(kernel.threads));
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {shares, 1, 1};
  config.attrs = attributes;
  config.numAttrs = shares > 1 ? 2 : 1;
  skinny::allow_shared_memory(reinterpret_cast<const void*>(kernel.multiply), *kernel.ready, bytes, device);
  check(cudaLaunchKernelEx(&config, kernel.multiply, call));
}

}  // namespace sparseflow::cuda::wide
