#include <algorithm>
#include <iterator>
#include <random>
#include <stdexcept>

#include "../tensor_map.h"
#include "hopper.h"
#include "launch.h"

namespace sparseflow::cuda::skinny::hopper {
namespace {

struct Choice {
  int shape, shares;
  bool in_cluster = true;  // otherwise, shares are added through memory
};

constexpr int kClusterShares[] = {1, 2, 3, 4, 6, 8};
constexpr int kClustered = 36;  // the number of variants that exist for each of the first six shapes
// Further variants, each of which was the fastest for some product.
constexpr Choice kOthers[] = {{0, 4, false}, {0, 6, false}, {1, 4, false}, {2, 3, false}, {3, 3, false},
                             {5, 3, false}, {5, 4, false}, {6, 1},        {6, 2, false}};

constexpr Choice choice_of(int variant) {
  return variant < kClustered ? Choice{variant / 6, kClusterShares[variant % 6]} : kOthers[variant - kClustered];
}

constexpr int64_t kMostMemory = 64 << 20;  // bytes for adding shares through memory: more can't stay in the L2
constexpr int kMaxSlots = 16;
constexpr int kEarly = 4;  // more keeps the first rows of x waiting
constexpr int64_t kLarge = 200 << 20;  // bytes of W's values

static_assert(kHopperVariants == kClustered + std::size(kOthers));

constexpr int kFactorBytes = 4 * kMostNormedRows;

// Behind the ring and the sums.
int factors_at(const HopperKernel& kernel, int slots) {
  return std::max(slots * (kernel.stage_bytes + 16), kernel.end_bytes());
}

// Returns the number of stages that fit; fewer than two aren't enough.
int slots_for(const HopperKernel& kernel, int device) {
  const int room = kernel.multiply ? shared_memory_of(kernel.per_sm, device) - kFactorBytes : 0;
  return room < kernel.end_bytes() ? 0 : std::min(kMaxSlots, room / (kernel.stage_bytes + 16));
}

const HopperKernels& kernels_of(bool e4m3, bool half) {
  if (e4m3) return half ? hopper_e4m3_fp16_kernels : hopper_e4m3_bf16_kernels;
  return half ? hopper_fp16_kernels : hopper_bf16_kernels;
}

// The one that takes all m rows at once, or else as many as there is a kernel for with room for a ring.
const HopperKernel& kernel_for(const Product& p, bool half, int variant, int device) {
  const auto& row = kernels_of(p.e4m3, half).kernel[choice_of(variant).shape];
  int width = 0;
  while (width < HopperKernels::widths - 1 && (8 << width < p.m || !row[width].multiply)) ++width;
  while (width > 0 && slots_for(row[width], device) < 2) --width;
  return row[width];
}

// Every block needs at least one stage, and the number of shares must be that of some variant.
int split_of(const HopperKernel& kernel, int variant, const Product& p) {
  const int stages = (p.k + kernel.stage_k - 1) / kernel.stage_k;
  int shares = choice_of(variant).shares;
  while (shares > stages || shares == 5 || shares == 7) --shares;
  return shares;
}

int strips_of(const HopperKernel& kernel, const Product& p) {
  const int rows = p.gated ? kernel.rows / 2 : kernel.rows, n = p.gated ? p.n / 2 : p.n;
  return (n + rows - 1) / rows;
}

int groups_of(const HopperKernel& kernel, const Product& p) { return (p.m + kernel.m_rows - 1) / kernel.m_rows; }

// Returns the bytes for adding shares through memory: a tile of sums for each block, and a counter of 8 bytes for each
// piece of a strip.
int64_t meeting_bytes(const HopperKernel& kernel, int variant, const Product& p) {
  const int split = split_of(kernel, variant, p);
  if (choice_of(variant).in_cluster || split == 1) return 0;
  return int64_t(split) * strips_of(kernel, p) * groups_of(kernel, p) * (kernel.sum_bytes + 8);
}

uint64_t random_tag() {
  std::random_device random;
  return (uint64_t(random()) << 32 | random()) << 8;
}

// Random, so that memory doesn't hold it by chance, or because another process left it there.
std::atomic<uint64_t>& tag() {
  static std::atomic<uint64_t> value = random_tag();
  return value;
}

// A matrix of such numbers in boxes that are 64 or 128 bytes wide, laid out for wgmma.
CUtensorMap map_of(const void* from, CUtensorMapDataType type, int rows, int columns, int box_rows, int box_columns,
                   CUtensorMapL2promotion promotion) {
  const cuuint32_t size = type == CU_TENSOR_MAP_DATA_TYPE_UINT8 ? 1 : 2;
  const auto u64 = [](int v) { return static_cast<cuuint64_t>(v); };
  const auto u32 = [](int v) { return static_cast<cuuint32_t>(v); };
  return tensor_map<2>("skinny_linear", {from, type, {u64(columns), u64(rows)}, {u64(columns) * size},
                                         {u32(box_columns), u32(box_rows)},
                                         box_columns * size == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                                         promotion});
}

// Of a place of the dense matrix: kept values and places.
double weight_bytes(const Product& p) { return p.e4m3 ? 5.0 / 8 : 9.0 / 8; }

// Fetching 256 bytes at a time pays for large weights and many rows of x (measured on an H200); below, 128 do, which
// boxes of two units of e4m3 have in two stages.
CUtensorMapL2promotion promotion_for(const HopperKernel& kernel, const Product& p) {
  if (p.m > 32 || int64_t(p.n) * p.k / (p.e4m3 ? 2 : 1) > kLarge) return CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
  return p.e4m3 && kernel.stage_k == 128 ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B : CU_TENSOR_MAP_L2_PROMOTION_NONE;
}

}  // namespace

std::string refusal(int variant, const Product& p, int device) {
  const std::string name = std::to_string(kPortableVariants + variant);
  if (attribute(cudaDevAttrComputeCapabilityMajor, device) != 9) return "runs in variant " + name + " on sm_90 only";
  if (!has_tensor_maps()) return "needs in variant " + name + " cuTensorMapEncodeTiled, which this driver lacks";
  const HopperKernel& kernel = kernel_for(p, false, variant, device);
  if (p.gated && kernel.rows < 128) return "has no gate in variant " + name;
  if (slots_for(kernel, device) < 2) return "needs in variant " + name + " more shared memory than this GPU has";
  if (p.before.squares && p.m > kMostNormedRows) return "normalises up to " + std::to_string(kMostNormedRows) + " rows";
  if (const int64_t bytes = meeting_bytes(kernel, variant, p); bytes > kMostMemory)
    return "needs in variant " + name + " " + std::to_string(bytes) + " bytes for its sums, and takes " + std::to_string(kMostMemory);
  return "";
}

int64_t partial_count(const Product& p, int variant, int device) {
  return meeting_bytes(kernel_for(p, false, variant, device), variant, p) / 4;
}

// Returns the variant with the largest strips that still fill most of the GPU, with K split among blocks.
int default_variant(const Product& p, int device) {
  const int processors = attribute(cudaDevAttrMultiProcessorCount, device);
  int best = 12;
  double most = 0;
  for (int variant = 0; variant < kClustered; ++variant) {
    if (!hopper::refusal(variant, p, device).empty()) continue;
    const HopperKernel& kernel = kernel_for(p, false, variant, device);
    const int split = split_of(kernel, variant, p), blocks = strips_of(kernel, p) * split, places = processors * kernel.per_sm;
    const int waves = (blocks + places - 1) / places;
    const double filled = double(blocks) / (waves * places);
    // Reading x again for each strip, and adding up shares.
    const double cost = 1 + double(8 * ((p.m + 7) / 8)) * 2 / (kernel.rows * weight_bytes(p)) + 0.02 * (split - 1);
    if (filled / cost > most) most = filled / cost, best = variant;
  }
  return best;
}

void forget_devices() {
  for (const HopperKernels* kernels :
       {&hopper_bf16_kernels, &hopper_fp16_kernels, &hopper_e4m3_bf16_kernels, &hopper_e4m3_fp16_kernels})
    for (const auto& row : kernels->kernel)
      for (const HopperKernel& kernel : row)
        if (kernel.ready) *kernel.ready = 0;
  tag() = random_tag();
}

uint64_t counter_tag() { return tag(); }

void run(const Product& p, bool half, int variant, int device, void* stream) {
  const HopperKernel& kernel = kernel_for(p, half, variant, device);
  const int slots = slots_for(kernel, device), split = split_of(kernel, variant, p);
  const int groups = groups_of(kernel, p);
  const CUtensorMapDataType type = half ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const HopperCall call{map_of(p.values, p.e4m3 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : type, p.n, p.k / 2, kernel.rows / 2,
                               kernel.stage_k / 2, promotion_for(kernel, p)),
                        map_of(p.x, type, p.m, p.k, kernel.m_rows, 64, CU_TENSOR_MAP_L2_PROMOTION_L2_256B),
                        p, slots, split, groups, std::min(slots, kEarly), factors_at(kernel, slots), tag()};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(split, strips_of(kernel, p) * groups);
  config.blockDim = dim3(kernel.threads);
  config.dynamicSmemBytes = factors_at(kernel, slots) + kFactorBytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(split), 1, 1};
  config.attrs = attributes;
  config.numAttrs = split > 1 && !p.partials ? 2 : 1;
  allow_shared_memory(reinterpret_cast<const void*>(kernel.multiply), *kernel.ready, static_cast<int>(config.dynamicSmemBytes), device);
  check(cudaLaunchKernelEx(&config, kernel.multiply, call));
}

}  // namespace sparseflow::cuda::skinny::hopper
