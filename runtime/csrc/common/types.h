// Enumerations shared by the CPU and GPU kernels.
#pragma once

#include <cstdint>

namespace sparseflow {

enum class DType { f32, bf16, f16 };

// The element types of a contextual MLP's weights, and on the GPU of x: those of DType, and int8 with a scale for each
// row.
enum class Stored { f32, bf16, f16, i8 };

// Activations; relu2, which is relu squared, is used only by contextual MLPs.
enum class Activation : int8_t { none, relu, gelu, gelu_tanh, silu, relu2 };

}  // namespace sparseflow
