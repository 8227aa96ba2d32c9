#include "launch.h"

#include <algorithm>
#include <stdexcept>

#include "kernels.h"

namespace sparseflow::cuda::skinny {
namespace {

constexpr int kSplits[] = {1, 2, 4, 8};
constexpr int kMaxSlots = 6;  // the largest count of wait_for_stage()

static_assert(kPortableVariants == Kernels::shapes * 4);

bool for_hopper(int variant) { return variant >= kPortableVariants && variant < kVariants; }

const Kernels& kernels_of(const Product& p, bool half) {
  if (p.e4m3) return half ? e4m3_fp16_kernels : e4m3_bf16_kernels;
  return half ? fp16_kernels : bf16_kernels;
}

const Kernel& kernel_for(const Product& p, bool half, int variant) {
  const int width = p.m <= 8 ? 0 : p.m <= 16 ? 1 : p.m <= 32 ? 2 : 3;
  return kernels_of(p, half).kernel[variant % kThroughMemory / 4][width];
}

int splits_of(int variant) { return kSplits[variant % 4]; }

// Returns the number of stages that fit; fewer than two aren't enough.
int slots_for(const Kernel& kernel, int device) {
  const int room = shared_memory_of(kernel.per_sm, device);
  return room < kernel.sum_bytes ? 0 : std::min(kMaxSlots, room / kernel.stage_bytes);
}

bool in_memory(int variant, int device) {
  return splits_of(variant) > 1 &&
         (variant >= kThroughMemory || attribute(cudaDevAttrComputeCapabilityMajor, device) < 9);
}

int blocks_down(const Kernel& kernel, int n) { return (n + kernel.rows - 1) / kernel.rows; }

std::string needs_room(int variant, int bytes) {
  return "needs in variant " + std::to_string(variant) + " " + std::to_string(bytes) +
         " bytes of shared memory a block, more than this GPU has";
}

}  // namespace

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  if (cudaDeviceGetAttribute(&value, which, device) != cudaSuccess) cudaGetLastError();
  return value;
}

int shared_memory_of(int per_sm, int device) {
  constexpr int per_block = 1024;  // bytes of shared memory that the system reserves for each block
  const int of_sm = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device) / per_sm - per_block;
  return std::min(of_sm, attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("sparseflow::skinny_linear did not launch: ") + cudaGetErrorString(error));
}

void allow_shared_memory(const void* kernel, std::atomic<uint64_t>& flags, int bytes, int device) {
  const uint64_t flag = uint64_t(1) << device % 64;
  if (device < 64 && flags & flag) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
  flags |= flag;
}

std::string refusal(int variant, const Product& p, int device) {
  if (for_hopper(variant)) return hopper::refusal(variant - kPortableVariants, p, device);
  const bool known = variant >= 0 && variant % kThroughMemory < kPortableVariants && variant < 2 * kThroughMemory;
  if (!known)
    return "has the variants 0 to " + std::to_string(kVariants - 1) + ", and of the first " +
           std::to_string(kPortableVariants) + " also " + std::to_string(kThroughMemory) +
           " more for sums through memory; got " + std::to_string(variant);
  if (p.gated || p.before.squares) {
    const std::string what = p.gated ? "a gate" : "a norm before the product";
    return "takes " + what + " only in the variants from " + std::to_string(kPortableVariants) + " on";
  }
  if (attribute(cudaDevAttrComputeCapabilityMajor, device) < 8) return "needs sparse tensor cores, which GPUs have from sm_80 on";
  const Kernel& kernel = kernel_for(p, false, variant);
  if (slots_for(kernel, device) < 2) return needs_room(variant, std::max(2 * kernel.stage_bytes, kernel.sum_bytes));
  return "";
}

// On GPUs other than sm_90: strips of 128 rows while x is small, and of 256 if reading x for each strip takes time;
// then just enough shares of K that the blocks fill most of the GPU.
int default_variant(const Product& p, int device) {
  if (attribute(cudaDevAttrComputeCapabilityMajor, device) == 9) return kPortableVariants + hopper::default_variant(p, device);
  const int preferred = p.m <= 32 ? 0 : 8;
  const int first = refusal(preferred, p, device).empty() ? preferred : 0;
  const Kernel& kernel = kernel_for(p, false, first);
  const int places = attribute(cudaDevAttrMultiProcessorCount, device) * kernel.per_sm;
  int split = 0;
  while (split < 3 && 10 * blocks_down(kernel, p.n) * kSplits[split] < 7 * places && p.k / 64 >= 8 * kSplits[split + 1])
    ++split;
  return first + split;
}

int64_t partial_count(const Product& p, int variant, int device) {
  if (for_hopper(variant)) return hopper::partial_count(p, variant - kPortableVariants, device);
  return in_memory(variant, device) ? int64_t(splits_of(variant)) * p.m * p.n : 0;
}

void forget_devices() {
  for (const Kernels* kernels : {&bf16_kernels, &fp16_kernels, &e4m3_bf16_kernels, &e4m3_fp16_kernels})
    for (const auto& row : kernels->kernel)
      for (const Kernel& kernel : row) *kernel.ready = 0;
  hopper::forget_devices();
}

void run(const Product& p, bool half, int variant, int device, void* stream) {
  if (for_hopper(variant)) return hopper::run(p, half, variant - kPortableVariants, device, stream);
  const Kernel& kernel = kernel_for(p, half, variant);
  const int slots = slots_for(kernel, device);
  const auto shares = static_cast<unsigned>(splits_of(variant));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shares, blocks_down(kernel, p.n), (p.m + kernel.m_rows - 1) / kernel.m_rows);
  config.blockDim = dim3(kernel.threads);
  config.dynamicSmemBytes = std::max(slots * kernel.stage_bytes, kernel.sum_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {shares, 1, 1};
  config.attrs = &cluster;
  config.numAttrs = shares > 1 && !p.partials ? 1 : 0;
  allow_shared_memory(reinterpret_cast<const void*>(kernel.multiply), *kernel.ready, static_cast<int>(config.dynamicSmemBytes), device);
  check(cudaLaunchKernelEx(&config, kernel.multiply, p, slots));
  if (!p.partials) return;
  const int64_t pieces = int64_t(p.m) * p.n / 8;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((pieces + 127) / 128, 65535));
  kernels_of(p, half).finish_partials<<<blocks, 128, 0, config.stream>>>(p, splits_of(variant));
  check(cudaGetLastError());
}

}  // namespace sparseflow::cuda::skinny
