#include "epilogue.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "common/checks.h"

namespace sparseflow {
namespace {

constexpr std::array<std::pair<std::string_view, Activation>, 6> kActivations{{
    {"none", Activation::none},
    {"relu", Activation::relu},
    {"gelu", Activation::gelu},
    {"gelu_tanh", Activation::gelu_tanh},
    {"silu", Activation::silu},
    {"relu2", Activation::relu2},
}};

std::optional<Activation> found(std::string_view name) {
  for (const auto& [known, activation] : kActivations)
    if (name == known) return activation;
  return std::nullopt;
}

}  // namespace

Activation activation_of(const char* op, const std::string& name) {
  const auto activation = found(name);
  if (!activation || *activation == Activation::relu2)
    refuse(op, "epilogue must be none, relu, gelu, gelu_tanh or silu, got '" + name + "'");
  return *activation;
}

Activation neuron_activation_of(const char* op, const std::string& name) {
  const auto activation = found(name);
  if (!activation || *activation == Activation::none)
    refuse(op, "activation must be silu, gelu, gelu_tanh, relu or relu2, got '" + name + "'");
  return *activation;
}

Epilogue epilogue_of(const char* op, const std::string& name, int64_t n, bool residual) {
  constexpr std::string_view suffix = "_gated";
  const std::string activation = name.substr(0, name.size() - std::min(name.size(), suffix.size()));
  if (!name.ends_with(suffix) || activation == "none") return {activation_of(op, name)};
  if (n % 2) refuse(op, "epilogue '" + name + "' needs an even N, got " + std::to_string(n));
  if (residual) refuse(op, "epilogue '" + name + "' takes no residual");
  return {activation_of(op, activation), true};
}

}  // namespace sparseflow
