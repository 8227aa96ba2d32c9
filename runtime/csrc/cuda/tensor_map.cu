#include "tensor_map.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace sparseflow::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode find_encode() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result) != cudaSuccess)
    cudaGetLastError();
  return result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(found) : nullptr;
}

Encode encode() {
  static const Encode found = find_encode();
  return found;
}

}  // namespace

bool has_tensor_maps() { return encode() != nullptr; }

template <size_t Rank>
CUtensorMap tensor_map(const char* op, const Boxes<Rank>& boxes) {
  std::array<cuuint32_t, Rank> steps;
  steps.fill(1);
  CUtensorMap map;
  const auto make = [&] {
    return encode()(&map, boxes.type, Rank, const_cast<void*>(boxes.from), boxes.sizes.data(), boxes.pitch.data(),
                    boxes.box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, boxes.swizzle, boxes.promotion,
                    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  CUresult result = make();
  int device = 0;
  // This thread may not have used CUDA yet.
  if (result == CUDA_ERROR_INVALID_CONTEXT && cudaGetDevice(&device) == cudaSuccess && cudaSetDevice(device) == cudaSuccess)
    result = make();
  if (result != CUDA_SUCCESS)
    throw std::runtime_error(std::string("sparseflow::") + op + ": cuTensorMapEncodeTiled failed with " + std::to_string(result));
  return map;
}

template CUtensorMap tensor_map(const char*, const Boxes<2>&);
template CUtensorMap tensor_map(const char*, const Boxes<4>&);

}  // namespace sparseflow::cuda
