// How kernels that hold rows are launched.
#pragma once

#include <stdexcept>
#include <string>

#include "hold.cuh"

namespace sparseflow::cuda::rows {

template <class... Arguments>
void launch(void (*kernel)(Arguments...), dim3 blocks, int block, void* stream, const Arguments&... arguments) {
  kernel<<<blocks, block, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw std::runtime_error(std::string("sparseflow: scaling for fp8 did not launch: ") + cudaGetErrorString(error));
}

template <class T, class Source>
void quantize_by_length(const Source& source, int64_t m, const Quantized& to, void* stream) {
  const dim3 rows(static_cast<unsigned>(m));
  const int64_t pieces = pieces_of(to.k);
  const auto kernel = pieces <= 2   ? quantize_held<T, 2, Source>
                      : pieces <= 4 ? quantize_held<T, 4, Source>
                                    : quantize_held<T, kMostHeld, Source>;
  launch(kernel, rows, kThreads, stream, source, to);
}

}  // namespace sparseflow::cuda::rows
