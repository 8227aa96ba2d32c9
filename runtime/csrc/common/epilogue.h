// How a linear layer ends.
#pragma once

#include <cstdint>
#include <string>

#include "common/types.h"

namespace sparseflow {

// Gated ("silu_gated"), y [..., N/2] = activation(g) ⊙ u for the halves g and u of x · Wᵀ + bias.
struct Epilogue {
  Activation activation;
  bool gated = false;

  // What comes right after the product, where the gate is applied apart.
  Activation before_gate() const { return gated ? Activation::none : activation; }
};

// none, relu, gelu, gelu_tanh or silu.
Activation activation_of(const char* op, const std::string& name);

// One that a contextual MLP has: silu, gelu, gelu_tanh, relu or relu2.
Activation neuron_activation_of(const char* op, const std::string& name);

// Throws also where a gate doesn't fit the weight's N rows or a residual.
Epilogue epilogue_of(const char* op, const std::string& name, int64_t n, bool residual);

}  // namespace sparseflow
