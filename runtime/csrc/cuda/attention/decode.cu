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

// Blocks for each head: as many as there are multiprocessors for, and keys.
int blocks_for(const Decode& p, int keys_a_block, int device) {
  static const int processors = skinny::attribute(cudaDevAttrMultiProcessorCount, device);
  const int64_t heads = int64_t(p.batch) * p.kv_heads;
  const int64_t most = std::min<int64_t>({kMostCluster, processors / heads, (p.capacity + keys_a_block - 1) / keys_a_block});
  int size = 1;
  while (2 * size <= most) size *= 2;
  return size;
}

template <int Dim, class T, int Halves>
void launch(const Decode& p, int device, void* stream) {
  using L = Layout<Dim>;
  static std::atomic<uint64_t> allowed{0};
  skinny::allow_shared_memory(reinterpret_cast<const void*>(decode_kernel<Dim, T, Halves>), allowed, L::bytes, device);
  cudaLaunchConfig_t config{};
  const int size = blocks_for(p, kTile * L::warps, device);
  config.gridDim = dim3(size, p.kv_heads, p.batch);
  config.blockDim = dim3(L::threads);
  config.dynamicSmemBytes = L::bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(size), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  config.attrs = attributes;
  config.numAttrs = 2;
  check_launch(cudaLaunchKernelEx(&config, decode_kernel<Dim, T, Halves>, p));
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
