#include "route.h"

#include <algorithm>

#include "cache.h"
#include "skinny/call.h"

namespace sparseflow::cuda {

Problem problem_of(const DeviceWeight& weight, const Want& want, const Choice& choice) {
  const ScalarType in = weight.values.scalar_type();
  const ScalarType out = in == ScalarType::Float8_e4m3fn ? ScalarType::BFloat16 : in;
  return weight.problem(want.m, out, fused(want) ? Activation::relu : Activation::none, want.bias, choice.algorithm,
                        choice.split_k);
}

namespace {

// A plan for more rows stands in up to half as many more, about where a sparse product loses to a dense one; and as
// long as reading the weight takes the time.
constexpr int64_t bound_by_weight = 64;
int64_t most_rows(int64_t m) { return std::max(bound_by_weight, m + m / 2); }

// Reading W once for every 64 rows is cheaper than decompressing it first up to here.
constexpr int64_t most_skinny = 128;

// By the own kernel, with the gate in it if this variant takes that; of kind unskinny where it refuses the product.
Route by_skinny(const DeviceWeight& weight, const Want& want, Route::Kind kind, int64_t variant) {
  if (want.gated && skinny::refusal(weight, want.m, variant, true).empty())
    return {.kind = kind, .variant = variant, .gate = Gate::inside};
  std::string why = skinny::refusal(weight, want.m, variant);
  if (!why.empty()) return {.kind = Route::Kind::unskinny, .why = std::move(why)};
  return {.kind = kind, .variant = variant};
}

// What is there already and can serve instead of the plan for `missing`; of kind building where there is nothing.
Route stand_in_for(const DeviceWeight& weight, const Want& want, const Problem& missing) {
  using enum Route::Kind;
  for (int64_t m = bucket_of(missing.m + 1, missing.in); m <= most_rows(want.m); m = bucket_of(m + 1, missing.in)) {
    const Choice choice = choice_for("linear", want.policy, m, kCusparselt, "CUDA");
    if (choice.backend != kCusparselt) continue;
    const Problem larger = problem_of(weight, {want.epilogue, want.policy, want.bias, want.residual, m}, choice);
    if (auto plan = PlanCache::instance().find(larger)) return {stand_in, larger, std::move(plan)};
  }
  if (want.m <= most_skinny) {
    Route own = by_skinny(weight, want, stand_in_skinny, skinny::default_choice);
    if (own.kind == stand_in_skinny) return own;
  }
  return {building, missing};
}

Route route_of_product(const DeviceWeight& weight, const Want& want, bool act) {
  using enum Route::Kind;
  const Choice choice = choice_for("linear", want.policy, want.m, kCusparselt, "CUDA");
  if (want.m == 0 || weight.n() == 0) return {empty};
  if (choice.backend == kDense) return {policy};
  if (!weight.joined()) return {apart};
  if (!weight.aligned()) return {unaligned};
  if (choice.backend == kSkinny) return by_skinny(weight, want, Route::Kind::skinny, choice.algorithm);
  const Problem problem = problem_of(weight, want, choice);
  PlanCache& cache = PlanCache::instance();
  if (auto plan = cache.find(problem)) return {sparse, problem, std::move(plan)};
  if (!load_cusparselt("").empty()) return {library, problem};
  if (!refusal(problem).empty()) return {refused, problem};
  if (!cache.failure(problem).empty()) return {failed, problem};
  if (!act && !cache.pending(problem)) return {unbuilt, problem};
  if (act && !cache.slow(problem.in)) {
    auto plan = cache.attempt(problem);
    return {plan ? sparse : failed, problem, std::move(plan)};
  }
  if (act) cache.request(problem, true);
  return stand_in_for(weight, want, problem);
}

std::string sentence_of_product(const Route& route) {
  const Problem& p = route.problem;
  const std::string sparse = "cusparselt, algorithm " + std::to_string(p.algorithm) +
                             (p.split_k ? ", split-k " + std::to_string(p.split_k) : "");
  switch (route.kind) {
    case Route::Kind::sparse: return sparse;
    case Route::Kind::skinny: return "skinny, variant " + std::to_string(route.variant);
    case Route::Kind::stand_in:
      return sparse + ", for " + std::to_string(p.m) + " rows for now: the plan for fewer is being built";
    case Route::Kind::stand_in_skinny: return "skinny for now: its plan is being built";
    case Route::Kind::unskinny: return "dense: the kernel for few rows " + route.why;
    case Route::Kind::empty: return "nothing: the result is empty";
    case Route::Kind::policy: return "dense: the policy says so";
    case Route::Kind::apart: return "dense: values and positions do not lie in one buffer";
    case Route::Kind::unaligned:
      return "dense: the weight's buffer does not start at a multiple of " + std::to_string(lt::alignment) + " bytes";
    case Route::Kind::library: return "dense: " + load_cusparselt("");
    case Route::Kind::refused: return "dense: cuSPARSELt " + refusal(p);
    case Route::Kind::failed: return "dense: building its plan failed: " + PlanCache::instance().failure(p);
    case Route::Kind::building: return "dense for now: its plan is being built";
    case Route::Kind::unbuilt:
      return PlanCache::instance().slow(p.in) ? "its plan is not built yet; the call has it built, and runs otherwise"
                                              : sparse + ", once the call has built its plan";
  }
  return "";
}

}  // namespace

Route route(const DeviceWeight& weight, const Want& want, bool act) {
  Route found = route_of_product(weight, want, act);
  if (want.gated && found.gate == Gate::none && found.kind != Route::Kind::empty) found.gate = Gate::after;
  return found;
}

std::string sentence(const Route& route) {
  const std::string product = sentence_of_product(route);
  switch (route.gate) {
    case Gate::inside: return product + "; the gate is part of it";
    case Gate::after: return product + "; the gate follows in a kernel of its own";
    case Gate::none: break;
  }
  return product;
}

}  // namespace sparseflow::cuda
