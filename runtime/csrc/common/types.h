// Plain data that the CPU's and the GPU's kernels share.
#pragma once

#include <cstdint>

namespace sparseflow {

enum class DType { f32, bf16, f16 };

// The entries of a contextual MLP's weights, and on the GPU those of x: what DType has, and int8 beside a scale a row.
enum class Stored { f32, bf16, f16, i8 };

// What a product is sent through; relu2, relu squared, only by contextual MLPs.
enum class Activation : int8_t { none, relu, gelu, gelu_tanh, silu, relu2 };

}  // namespace sparseflow
