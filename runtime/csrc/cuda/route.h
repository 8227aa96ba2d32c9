// How a call of sparseflow::linear runs: by a plan of cuSPARSELt, by the own kernel or densely, and why.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "multiply.h"

namespace sparseflow::cuda {

using cpu::Epilogue;

// What of a call decides how it runs.
struct Want {
  Epilogue epilogue;
  const std::vector<int64_t>& policy;
  bool bias, residual;
  int64_t m;
  bool gated = false;  // the halves of the product are then made one by a gate
};

// Whether the library's own epilogue serves; else it multiplies, and the activation and the residual come after.
inline bool fused(const Want& want) { return want.epilogue == Epilogue::relu && !want.residual; }

// Where the gate of a gated product is applied.
enum class Gate { none, inside, after };

struct Route {
  enum class Kind {
    sparse,    // by `plan`
    skinny,    // by the own kernel in `variant`
    stand_in,  // by `plan`, which is for more rows, while that of the right bucket is built in the background
    stand_in_skinny,  // by the own kernel in its default variant, likewise
    empty,     // nothing to compute
    policy,    // densely, and so are all below
    apart,     // places not right behind the values
    unaligned,
    library,   // not loaded, or no driver
    refused,   // by refusal(problem)
    failed,    // by the cache's failure(problem)
    building,  // in the background, and nothing stands in
    unbuilt,   // a call would build the plan, or have it built
    unskinny,  // the own kernel doesn't take it: `why`
  } kind;
  Problem problem{};
  std::shared_ptr<Plan> plan{};
  int64_t variant = 0;
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
