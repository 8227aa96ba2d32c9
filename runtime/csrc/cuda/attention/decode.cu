#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "../skinny/launch.h"
#include "decode.cuh"

namespace sparseflow::cuda::attention {
namespace {

void check_launch(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("sparseflow::decode_attention did not launch: ") + cudaGetErrorString(error));
}

constexpr int kDevices = 64;      // of which something is remembered
constexpr int kUsualCluster = 8;  // blocks, unless each finds two tiles a warp in more

// A launch of clusters of `size` blocks.
struct Launch {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attributes[2]{};

  Launch(dim3 grid, int size, int threads, int bytes) {
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = bytes;
    config.attrs = attributes;
    config.numAttrs = 1;
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {static_cast<unsigned>(size), 1, 1};
  }
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
};

// Of a kernel, how many clusters of a size a device holds at once, which the driver is asked once.
class Fitting {
 public:
  int count(const void* kernel, int size, int threads, int bytes, int device) {
    if (device >= kDevices) return ask(kernel, size, threads, bytes);
    std::atomic<int16_t>& known = known_[device][size];
    if (known == 0) known = static_cast<int16_t>(ask(kernel, size, threads, bytes) + 1);
    return known - 1;
  }

 private:
  static int ask(const void* kernel, int size, int threads, int bytes) {
    const Launch launch(dim3(size), size, threads, bytes);
    int found = 0;
    // Parts of a device may hold no cluster of the size at all; an older one refuses it.
    if (cudaOccupancyMaxActiveClusters(&found, kernel, &launch.config) == cudaSuccess) return found;
    cudaGetLastError();
    return 0;
  }

  std::atomic<int16_t> known_[kDevices][kMostCluster + 1] = {};
};

// Lets a kernel have clusters of more than eight blocks, once for each device.
void allow_large_clusters(const void* kernel, std::atomic<uint64_t>& flags, int device) {
  const uint64_t flag = uint64_t(1) << device % kDevices;
  if (device < kDevices && flags & flag) return;
  check_launch(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  flags |= flag;
}

template <int Dim, class T, int Halves>
void launch(const Decode& p, int device, void* stream) {
  using L = Layout<Dim>;
  static std::atomic<uint64_t> allowed{0}, clustered{0};
  static Fitting fitting;
  static const int processors = skinny::attribute(cudaDevAttrMultiProcessorCount, device);
  const auto* const kernel = reinterpret_cast<const void*>(decode_kernel<Dim, T, Halves>);
  skinny::allow_shared_memory(kernel, allowed, L::bytes, device);
  allow_large_clusters(kernel, clustered, device);
  // Blocks for each head: as many as there are multiprocessors for, and keys, and as run at once for all heads. Few keys
  // leave multiprocessors to the kernel that follows, which loads its weight meanwhile.
  const int64_t heads = int64_t(p.batch) * p.kv_heads, keys = kTile * L::warps;
  const int64_t useful = std::max(std::min<int64_t>(kUsualCluster, (p.capacity + keys - 1) / keys), p.capacity / (2 * keys));
  int size = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({kMostCluster, processors / heads, useful})));
  while (size > 1 && fitting.count(kernel, size, L::threads, L::bytes, device) < heads) --size;
  Launch launch(dim3(size, p.kv_heads, p.batch), size, L::threads, L::bytes);
  launch.config.stream = static_cast<cudaStream_t>(stream);
  launch.config.numAttrs = 2;
  launch.attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  launch.attributes[1].val.programmaticStreamSerializationAllowed = 1;
  check_launch(cudaLaunchKernelEx(&launch.config, decode_kernel<Dim, T, Halves>, p));
}

template <class T, int Halves>
void launch_wide(const Decode& p, int dim, int device, void* stream) {
  switch (dim) {
    case 64: return launch<64, T, Halves>(p, device, stream);
    case 96: return launch<96, T, Halves>(p, device, stream);
    case 128: return launch<128, T, Halves>(p, device, stream);
    case 256: return launch<256, T, Halves>(p, device, stream);
    default: throw std::runtime_error("sparseflow::decode_attention takes no heads of width " + std::to_string(dim));
  }
}

template <class T>
void launch_rows(const Decode& p, int dim, int device, void* stream) {
  if (p.group * p.queries > 8) launch_wide<T, 2>(p, dim, device, stream);
  else launch_wide<T, 1>(p, dim, device, stream);
}

}  // namespace

void run(const Decode& p, int dim, DType dtype, int device, void* stream) {
  switch (dtype) {
    case DType::bf16: return launch_rows<Bf16>(p, dim, device, stream);
    case DType::f16: return launch_rows<Fp16>(p, dim, device, stream);
    default: throw std::runtime_error("sparseflow::decode_attention takes bfloat16 and float16");
  }
}

}  // namespace sparseflow::cuda::attention
