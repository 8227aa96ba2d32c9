#include "instructions.cuh"
//
#include "fetch.cuh"
#include "launch.cuh"

#include <algorithm>

namespace sparseflow::cuda::contextual {

void fetch(const Fetch& p, int device, void* stream) {
  constexpr int most_blocks = 64, warps = kFetchThreads / 32;
  const int blocks = std::clamp((p.most + warps - 1) / warps, 1, most_blocks);
  launch(fetch_rows, dim3(blocks), kFetchThreads, p, device, stream);
}

const void* on_device(const void* pointer) {
  cudaPointerAttributes found{};
  if (cudaPointerGetAttributes(&found, pointer) != cudaSuccess) cudaGetLastError();
  return found.type == cudaMemoryTypeHost ? found.devicePointer : nullptr;
}

}  // namespace sparseflow::cuda::contextual
