#include <algorithm>
#include <random>

#include "../skinny/launch.h"
#include "decode_kernels.h"

namespace sparseflow::cuda::patterns {
namespace {

using skinny::attribute;

constexpr int kMaxSlots = 16;
// A counter's byte holds up to 255, and a warp takes longer the more shares it adds up.
constexpr int kMostShares = 32;

const DecodeKernels& kernels_of(int block, bool half) {
  if (block == 6) return half ? fp16_kernels_6 : bf16_kernels_6;
  return half ? fp16_kernels_8 : bf16_kernels_8;
}

const DecodeKernel& kernel_for(int variant, const Product& p, int block, bool half) {
  const auto& row = kernels_of(block, half).kernel[variant];
  int width = 0;
  while (width < DecodeKernels::widths - 1 && 8 << width < p.m && row[width + 1].multiply) ++width;
  return row[width];
}

// Returns the number of stages that fit; fewer than two aren't enough.
int slots_for(const DecodeKernel& kernel, int device) {
  const int room = skinny::shared_memory_of(kernel.per_sm, device) - kernel.other_bytes;
  return std::min(kMaxSlots, room / (kernel.stage_bytes + 16));
}

struct Grid {
  int strips, units, blocks, groups;

  int64_t shares() const { return int64_t(blocks) * groups * 2; }
};

Grid grid_of(const DecodeKernel& kernel, const Product& p, int device) {
  const int rows = p.gated ? kernel.rows / 2 : kernel.rows, n = p.gated ? p.n / 2 : p.n;
  Grid g{(n + rows - 1) / rows, (p.k + kernel.unit - 1) / kernel.unit, 0, (p.m + kernel.m_rows - 1) / kernel.m_rows};
  const int64_t places = int64_t(attribute(cudaDevAttrMultiProcessorCount, device)) * kernel.per_sm;
  g.blocks = static_cast<int>(std::min({places, int64_t(g.strips) * g.units, int64_t(g.strips) * (kMostShares - 1)}));
  return g;
}

// Whether no strip is shared, so that no sums go through memory.
bool whole(const Grid& g) { return g.strips % g.blocks == 0; }

int64_t sums_bytes(const DecodeKernel& kernel, const Grid& g) {
  return g.shares() * kernel.row_warps * kernel.partial_floats * 4;
}

// Random, so that memory doesn't hold it by chance, or because another process left it there.
uint64_t random_tag() {
  std::random_device random;
  return (uint64_t(random()) << 32 | random()) << 8;
}

std::atomic<uint64_t>& tag() {
  static std::atomic<uint64_t> value = random_tag();
  return value;
}

}  // namespace

std::string refusal(int variant, const Product& p, int block, int device) {
  if (variant < 0 || variant >= kVariants)
    return "has the variants 0 to " + std::to_string(kVariants - 1) + ", got " + std::to_string(variant);
  if (attribute(cudaDevAttrComputeCapabilityMajor, device) < 8) return "needs sparse tensor cores, which GPUs have from sm_80 on";
  const DecodeKernel& kernel = kernel_for(variant, p, block, false);
  // A warp needs rows of the gate and those that they gate.
  if (p.gated && kernel.rows / kernel.row_warps < 32) return "has no gate in variant " + std::to_string(variant);
  const Grid g = grid_of(kernel, p, device);
  if (int64_t(g.strips) * g.units * g.blocks > INT32_MAX) return "takes no weight of so many elements";
  if (slots_for(kernel, device) < 2)
    return "needs in variant " + std::to_string(variant) + " more shared memory than this GPU has";
  return "";
}

// The first that fits the GPU's shared memory.
int default_variant(const Product& p, int block, int device) {
  for (int variant = 0; variant < kVariants; ++variant)
    if (refusal(variant, p, block, device).empty()) return variant;
  return 0;
}

int64_t scratch_bytes(int variant, const Product& p, int block, int device) {
  const DecodeKernel& kernel = kernel_for(variant, p, block, false);
  const Grid g = grid_of(kernel, p, device);
  return whole(g) ? 0 : sums_bytes(kernel, g) + int64_t(g.groups) * g.strips * kernel.row_warps * 8;
}

void forget_devices() {
  for (const DecodeKernels* kernels : {&bf16_kernels_6, &bf16_kernels_8, &fp16_kernels_6, &fp16_kernels_8})
    for (const auto& row : kernels->kernel)
      for (const DecodeKernel& kernel : row)
        if (kernel.ready) *kernel.ready = 0;
  tag() = random_tag();
}

void run(int variant, const Product& p, int block, bool half, int device, void* stream) {
  const DecodeKernel& kernel = kernel_for(variant, p, block, half);
  const Grid g = grid_of(kernel, p, device);
  auto* counters = p.partials ? reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(p.partials) + sums_bytes(kernel, g)) : nullptr;
  const int slots = slots_for(kernel, device);
  const DecodeCall call{p, slots, g.strips, g.units, tag(), counters};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(g.blocks, g.groups);
  config.blockDim = dim3(kernel.threads);
  config.dynamicSmemBytes = kernel.other_bytes + slots * (kernel.stage_bytes + 16);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = attribute(cudaDevAttrComputeCapabilityMajor, device) >= 9 ? 1 : 0;
  skinny::allow_shared_memory(reinterpret_cast<const void*>(kernel.multiply), *kernel.ready,
                              static_cast<int>(config.dynamicSmemBytes), device);
  skinny::check(cudaLaunchKernelEx(&config, kernel.multiply, call));
}

}  // namespace sparseflow::cuda::patterns
