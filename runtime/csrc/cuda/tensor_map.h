// Descriptors of tensors for the copy engine of sm_90.
#pragma once

#include <cuda.h>

#include <array>
#include <cstddef>

namespace sparseflow::cuda {

// Whether the driver has cuTensorMapEncodeTiled.
bool has_tensor_maps();

// A tensor in device memory, its innermost dimension first, and the boxes of it that are copied.
template <size_t Rank>
struct Boxes {
  const void* from;
  CUtensorMapDataType type;
  std::array<cuuint64_t, Rank> sizes;      // elements
  std::array<cuuint64_t, Rank - 1> pitch;  // bytes from an index to the next, of every dimension but the innermost
  std::array<cuuint32_t, Rank> box;        // elements
  CUtensorMapSwizzle swizzle;
  CUtensorMapL2promotion promotion;
};

// Returns the descriptor, by which boxes are filled with zeros beyond the tensor; throws std::runtime_error, which names
// the operator `op`.
template <size_t Rank>
CUtensorMap tensor_map(const char* op, const Boxes<Rank>& boxes);

}  // namespace sparseflow::cuda
