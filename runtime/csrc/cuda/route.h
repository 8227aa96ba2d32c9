// The route of a call of sparseflow::linear: what runs, and why if that isn't what the policy says.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/choice.h"
#include "common/types.h"
#include "multiply.h"

namespace sparseflow::cuda {

// The properties of a call that determine its route.
struct Want {
  Activation activation;
  const std::vector<int64_t>& policy;
  bool bias, residual;
  int64_t m;
  bool gated = false;  // whether a gate joins the halves of the product
};

// Whether the library's own epilogue is used; otherwise activation and residual are applied after the product.
inline bool fused(const Want& want) { return want.activation == Activation::relu && !want.residual; }

// Where the gate of a gated product is applied.
enum class Gate { none, inside, after };

enum class Way {
  nothing,   // the result is empty
  dense,     // cuBLAS, because of the policy or of a refusal
  plan,      // a plan of cuSPARSELt
  stand_in,  // a plan for more rows, while the plan of the right bucket is built in the background
  skinny,    // a variant of the skinny kernel
  wide,  // a variant of the kernel for many rows in e4m3
  stand_in_skinny,  // the skinny kernel's default variant, while the plan is built
  registered,       // a kernel that was registered from Python
};

// Why the policy's choice can't run, so that the dense product does.
enum class Refusal {
  none,
  apart,      // the positions don't follow the values in memory
  unaligned,  // the weight's buffer isn't aligned
  library,    // the library or the driver isn't loaded
  product,    // cuSPARSELt can't run the product; see refusal(problem)
  failed,     // the plan could not be built; see the cache's failure(problem)
  building,   // the plan is being built, and nothing stands in for it
  unbuilt,    // the plan isn't built yet; a call would build it
  skinny,     // the skinny kernel can't run the product; see `why`
  wide,       // the kernel for many rows can't; see `why`
};

struct Route {
  Way way;
  Choice choice;  // what the policy says
  Refusal refusal = Refusal::none;
  Problem problem{};  // of the plan that runs or is refused
  std::shared_ptr<Plan> plan{};
  int64_t variant = 0;  // of the own kernel
  std::string why{};
  Gate gate = Gate::none;
};

// Returns the problem of a plan for `want`, whether or not the plan is possible.
Problem problem_of(const DeviceWeight& weight, const Want& want, const Choice& choice);

// Returns the route of a call. With `act` a missing plan is built, in the background if that isn't quick; without,
// nothing changes. Until it is built, an already loaded kernel is preferred to cuBLAS, which loads a kernel for each
// class of M.
Route route(const DeviceWeight& weight, const Want& want, bool act);

// Describes a route: "cusparselt, algorithm 7", "dense: …".
std::string sentence(const Route& route);

}  // namespace sparseflow::cuda
