// How a call of sparseflow::linear runs: what is chosen, and why it is not what the policy says.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/choice.h"
#include "common/types.h"
#include "multiply.h"

namespace sparseflow::cuda {

// What of a call decides how it runs.
struct Want {
  Activation activation;
  const std::vector<int64_t>& policy;
  bool bias, residual;
  int64_t m;
  bool gated = false;  // the halves of the product are then made one by a gate
};

// Whether the library's own epilogue serves; else it multiplies, and the activation and the residual come after.
inline bool fused(const Want& want) { return want.activation == Activation::relu && !want.residual; }

// Where the gate of a gated product is applied.
enum class Gate { none, inside, after };

enum class Way {
  nothing,   // there is nothing to compute
  dense,     // by cuBLAS: the policy says so, or there is a refusal
  plan,      // of cuSPARSELt
  stand_in,  // by a plan for more rows, while that of the right bucket is built in the background
  skinny,    // by the own kernel in a variant
  stand_in_skinny,  // by the own kernel in its default variant, while the plan is built
  registered,       // by a kernel that was registered from Python
};

// Why what the policy says can't be done; then it is done densely.
enum class Refusal {
  none,
  apart,      // places not right behind the values
  unaligned,  // the weight's buffer
  library,    // not loaded, or no driver
  product,    // cuSPARSELt has none such: refusal(problem)
  failed,     // the plan could not be built: the cache's failure(problem)
  building,   // the plan, in the background, and nothing stands in
  unbuilt,    // a call would build the plan, or have it built
  skinny,     // the own kernel doesn't take it: `why`
};

struct Route {
  Way way;
  Choice choice;  // what the policy says
  Refusal refusal = Refusal::none;
  Problem problem{};  // of a plan, there or refused
  std::shared_ptr<Plan> plan{};
  int64_t variant = 0;  // of the own kernel
  std::string why{};
  Gate gate = Gate::none;
};

// The problem that `want` poses a plan, apart from whether it may be posed.
Problem problem_of(const DeviceWeight& weight, const Want& want, const Choice& choice);

// With `act` the plan that lacks is built, here if that is quick and in the background if not; without, nothing happens.
// Meanwhile what is loaded already serves, rather than cuBLAS, which loads a kernel for each new class of M.
Route route(const DeviceWeight& weight, const Want& want, bool act);

// "cusparselt, algorithm 7", "dense: …".
std::string sentence(const Route& route);

}  // namespace sparseflow::cuda
