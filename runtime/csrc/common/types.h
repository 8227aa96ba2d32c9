// Plain data that the CPU's and the GPU's kernels share.
#pragma once

#include <cstdint>

namespace sparseflow {

enum class DType { f32, bf16, f16 };

// What a product is sent through; relu2, relu squared, only by contextual MLPs.
enum class Activation : int8_t { none, relu, gelu, gelu_tanh, silu, relu2 };

}  // namespace sparseflow
