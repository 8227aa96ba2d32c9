#include "route.h"

#include <algorithm>

#include "cache.h"
#include "skinny/call.h"
#include "wide/call.h"

namespace sparseflow::cuda {

Problem problem_of(const DeviceWeight& weight, const Want& want, const Choice& choice) {
  const ScalarType in = weight.values.scalar_type();
  const ScalarType out = in == ScalarType::Float8_e4m3fn ? ScalarType::BFloat16 : in;
  return weight.problem(want.m, out, fused(want) ? Activation::relu : Activation::none, want.bias, choice.algorithm,
                        choice.split_k);
}

namespace {

// A plan for up to 1.5 times the rows may stand in: beyond that, the sparse product is slower than the dense one. So
// may any plan for up to kBoundByWeight rows, where the time is that of reading the weight.
constexpr int64_t kBoundByWeight = 64;
int64_t most_rows(int64_t m) { return std::max(kBoundByWeight, m + m / 2); }

// Up to this many rows, reading W once for every 64 rows is cheaper than decompressing it first.
constexpr int64_t kMostSkinny = 128;

Route refused(const Choice& choice, Refusal refusal, const Problem& problem = {}) {
  return {.way = Way::dense, .choice = choice, .refusal = refusal, .problem = problem};
}

// Routes to the skinny kernel, with the gate in it if the variant supports that; dense if it refuses the product.
Route by_skinny(const DeviceWeight& weight, const Want& want, const Choice& choice, Way way, int64_t variant) {
  if (want.gated && skinny::refusal(weight, want.m, variant, true).empty())
    return {.way = way, .choice = choice, .variant = variant, .gate = Gate::inside};
  std::string why = skinny::refusal(weight, want.m, variant);
  if (!why.empty()) return {.way = Way::dense, .choice = choice, .refusal = Refusal::skinny, .why = std::move(why)};
  return {.way = way, .choice = choice, .variant = variant};
}

// Routes to the kernel for many rows, with the gate in it if the variant supports that; dense if it refuses the product.
Route by_wide(const DeviceWeight& weight, const Want& want, const Choice& choice) {
  const int64_t variant = choice.algorithm;
  if (want.gated && wide::refusal(weight, want.m, variant, true).empty())
    return {.way = Way::wide, .choice = choice, .variant = variant, .gate = Gate::inside};
  std::string why = wide::refusal(weight, want.m, variant);
  if (!why.empty()) return {.way = Way::dense, .choice = choice, .refusal = Refusal::wide, .why = std::move(why)};
  return {.way = Way::wide, .choice = choice, .variant = variant};
}

// Routes to something already loaded that can stand in for the plan of `missing`; dense if there is nothing.
Route stand_in_for(const DeviceWeight& weight, const Want& want, const Choice& wanted, const Problem& missing) {
  for (int64_t m = bucket_of(missing.m + 1, missing.in); m <= most_rows(want.m); m = bucket_of(m + 1, missing.in)) {
    const Choice choice = choice_for("linear", want.policy, m, Device::cuda);
    if (choice.kernel != Kernel::cusparselt) continue;
    const Problem larger = problem_of(weight, {want.activation, want.policy, want.bias, want.residual, m}, choice);
    if (auto plan = PlanCache::instance().find(larger))
      return {.way = Way::stand_in, .choice = wanted, .problem = larger, .plan = std::move(plan)};
  }
  if (want.m <= kMostSkinny) {
    Route own = by_skinny(weight, want, wanted, Way::stand_in_skinny, skinny::kDefaultChoice);
    if (own.way == Way::stand_in_skinny) return own;
  }
  return refused(wanted, Refusal::building, missing);
}

// Routes to a plan of cuSPARSELt.
Route by_plan(const DeviceWeight& weight, const Want& want, const Choice& choice, bool act) {
  const Problem problem = problem_of(weight, want, choice);
  const auto planned = [&](std::shared_ptr<Plan> plan) {
    return Route{.way = Way::plan, .choice = choice, .problem = problem, .plan = std::move(plan)};
  };
  PlanCache& cache = PlanCache::instance();
  if (auto plan = cache.find(problem)) return planned(std::move(plan));
  if (!load_cusparselt("").empty()) return refused(choice, Refusal::library, problem);
  if (!refusal(problem).empty()) return refused(choice, Refusal::product, problem);
  if (!cache.failure(problem).empty()) return refused(choice, Refusal::failed, problem);
  if (!act && !cache.pending(problem)) return refused(choice, Refusal::unbuilt, problem);
  if (act && !cache.slow(problem.in)) {
    auto plan = cache.attempt(problem);
    return plan ? planned(std::move(plan)) : refused(choice, Refusal::failed, problem);
  }
  if (act) cache.request(problem, true);
  return stand_in_for(weight, want, choice, problem);
}

Route route_of_product(const DeviceWeight& weight, const Want& want, bool act) {
  const Choice choice = choice_for("linear", want.policy, want.m, Device::cuda);
  if (want.m == 0 || weight.n() == 0) return {Way::nothing, choice};
  if (choice.kernel == Kernel::dense) return {Way::dense, choice};
  if (choice.kernel == Kernel::registered) return {Way::registered, choice};
  SF_REQUIRE(choice.kernel != Kernel::tiles, "linear", "policy names the kernel tiles, which reads weights of 4:6 and 6:8");
  if (!weight.joined()) return refused(choice, Refusal::apart);
  if (!weight.aligned()) return refused(choice, Refusal::unaligned);
  if (choice.kernel == Kernel::skinny) return by_skinny(weight, want, choice, Way::skinny, choice.algorithm);
  if (choice.kernel == Kernel::wide) return by_wide(weight, want, choice);
  return by_plan(weight, want, choice, act);
}

std::string plan_of(const Problem& p) {
  return "cusparselt, algorithm " + std::to_string(p.algorithm) +
         (p.split_k ? ", split-k " + std::to_string(p.split_k) : "");
}

std::string sentence_of(const Route& route) {
  const Problem& p = route.problem;
  switch (route.refusal) {
    case Refusal::none: return "dense: the policy says so";
    case Refusal::skinny: return "dense: the kernel for few rows " + route.why;
    case Refusal::wide: return "dense: the kernel for many rows " + route.why;
    case Refusal::apart: return "dense: values and positions do not lie in one buffer";
    case Refusal::unaligned:
      return "dense: the weight's buffer does not start at a multiple of " + std::to_string(lt::kAlignment) + " bytes";
    case Refusal::library: return "dense: " + load_cusparselt("");
    case Refusal::product: return "dense: cuSPARSELt " + refusal(p);
    case Refusal::failed: return "dense: building its plan failed: " + PlanCache::instance().failure(p);
    case Refusal::building: return "dense for now: its plan is being built";
    case Refusal::unbuilt:
      return PlanCache::instance().slow(p.in) ? "its plan is not built yet; the call has it built, and runs otherwise"
                                              : plan_of(p) + ", once the call has built its plan";
  }
  return "";
}

std::string sentence_of_product(const Route& route) {
  const Problem& p = route.problem;
  switch (route.way) {
    case Way::nothing: return "nothing: the result is empty";
    case Way::dense: return sentence_of(route);
    case Way::plan: return plan_of(p);
    case Way::stand_in:
      return plan_of(p) + ", for " + std::to_string(p.m) + " rows for now: the plan for fewer is being built";
    case Way::skinny: return "skinny, variant " + std::to_string(route.variant);
    case Way::wide: return "wide, variant " + std::to_string(route.variant);
    case Way::stand_in_skinny: return "skinny for now: its plan is being built";
    case Way::registered: return "kernel " + std::to_string(route.choice.code & 255) + ", registered from Python";
  }
  return "";
}

}  // namespace

Route route(const DeviceWeight& weight, const Want& want, bool act) {
  Route found = route_of_product(weight, want, act);
  const bool apart = want.gated && found.gate == Gate::none;
  if (apart && found.way != Way::nothing && found.way != Way::registered) found.gate = Gate::after;
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
