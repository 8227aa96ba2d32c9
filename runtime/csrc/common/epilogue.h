// The epilogues of linear layers, and their names.
#pragma once

#include <cstdint>
#include <string>

#include "common/types.h"

namespace sparseflow {

// An epilogue. A gated one ("silu_gated") gives y [..., N/2] = activation(g) ⊙ u for the halves g and u of x · Wᵀ +
// bias.
struct Epilogue {
  Activation activation;
  bool gated = false;

  // The activation of the product itself, if the gate is applied in a step of its own.
  Activation before_gate() const { return gated ? Activation::none : activation; }
};

// Returns the activation of a linear layer by name: none, relu, gelu, gelu_tanh or silu. Throws for other names.
Activation activation_of(const char* op, const std::string& name);

// Returns the activation of a contextual MLP by name: silu, gelu, gelu_tanh, relu or relu2. Throws for other names.
Activation neuron_activation_of(const char* op, const std::string& name);

// Returns an epilogue by name. Throws also if it is gated and N is odd or there is a residual.
Epilogue epilogue_of(const char* op, const std::string& name, int64_t n, bool residual);

}  // namespace sparseflow
