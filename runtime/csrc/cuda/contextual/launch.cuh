// Launching of contextual kernels.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "../skinny/launch.h"
#include "contextual.h"

namespace sparseflow::cuda::contextual {

inline void check_launch(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string("sparseflow: a contextual kernel did not launch: ") + cudaGetErrorString(error));
}

// From sm_90 on, the launch overlaps the end of the previous one; the kernels themselves wait for it.
template <class Argument>
void launch(void (*kernel)(Argument), dim3 blocks, int threads, const Argument& argument, int device, void* stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = skinny::attribute(cudaDevAttrComputeCapabilityMajor, device) >= 9 ? 1 : 0;
  check_launch(cudaLaunchKernelEx(&config, kernel, argument));
}

inline int processors(int device) { return skinny::attribute(cudaDevAttrMultiProcessorCount, device); }

}  // namespace sparseflow::cuda::contextual
