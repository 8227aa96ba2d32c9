// sparseflow::linear on CUDA: by its policy a plan of cuSPARSELt, the skinny kernel, or the dense product by cuBLAS.
#include <torch/csrc/stable/library.h>

#include "cache.h"
#include "common/epilogue.h"
#include "common/registered.h"
#include "cpu/args.h"
#include "ending.h"
#include "route.h"
#include "skinny/call.h"

namespace sparseflow::cuda {
namespace {

constexpr const char* kOp = "linear";

Tensor run_dense(const Call& c, Activation activation, const std::optional<Tensor>& dense) {
  const Tensor weight = dense ? *dense : dense_of(c.weight);
  return added(activated(call_aten("aten::linear", "", c.x, weight, c.bias), activation), c.residual);
}

Tensor run_sparse(Call& c, const Want& want, const Route& route) {
  if (fused(want) || want.activation == Activation::none) return multiply(*route.plan, route.problem, c);
  // The library adds C before the activation, but the operator adds the residual after it.
  const std::optional<Tensor> after = std::move(c.residual);
  c.residual.reset();
  return added(activated(multiply(*route.plan, route.problem, c), want.activation), after);
}

Tensor run(Call& c, const Want& want, const Route& route, const std::optional<Tensor>& dense) {
  if (route.way == Way::skinny || route.way == Way::stand_in_skinny)
    return skinny::product(c, want.activation, route.variant);
  return route.plan ? run_sparse(c, want, route) : run_dense(c, want.activation, dense);
}

Tensor linear(const Tensor& x, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
              std::optional<Tensor> residual, int64_t in_features, std::string epilogue, std::vector<int64_t> policy,
              std::optional<Tensor> dense) {
  cpu::dtype_of(kOp, "values", values);
  Call c(kOp, x, {values, positions, in_features}, std::move(bias), std::move(residual), values.scalar_type());
  if (dense) check_tensor(kOp, "dense", *dense, values.scalar_type(), {c.weight.n(), in_features}, c.weight.device());
  const int64_t n = c.weight.n();
  const Epilogue ending = epilogue_of(kOp, epilogue, n, c.residual.has_value());
  const Want want{ending.before_gate(), policy, c.bias.has_value(), c.residual.has_value(), c.m, ending.gated};
  const Route chosen = route(c.weight, want, true);
  if (chosen.way == Way::nothing)
    return torch::stable::new_empty(c.x, sizes_with_last(c.x, ending.gated ? n / 2 : n));
  if (chosen.way == Way::registered)
    return run_registered(c.x, values, positions, c.bias, c.residual, in_features, epilogue, chosen.choice);
  if (chosen.gate == Gate::inside) return skinny::product(c, ending.activation, chosen.variant, true);
  const Tensor y = run(c, want, chosen, dense);
  return ending.gated ? gated(kOp, y, c.m, ending.activation) : y;
}

// Returns a sentence about what linear, or linear_fp8 for a weight in e4m3, would run now for m rows.
std::string path(const Tensor& values, const Tensor& positions, int64_t in_features, std::string epilogue,
                 std::vector<int64_t> policy, bool bias, bool residual, int64_t m) {
  constexpr const char* path_op = "linear_path";
  const bool fp8 = values.scalar_type() == ScalarType::Float8_e4m3fn;
  if (!fp8) cpu::dtype_of(path_op, "values", values);
  SF_REQUIRE(m >= 0, path_op, "m must not be negative, got " + std::to_string(m));
  const DeviceWeight weight{values, positions, in_features};
  weight.check(path_op);
  const Epilogue ending = epilogue_of(path_op, epilogue, weight.n(), residual);
  if (fp8) return sentence(route(weight, {Activation::none, policy, false, false, m, ending.gated}, false));
  return sentence(route(weight, {ending.before_gate(), policy, bias, residual, m, ending.gated}, false));
}

// Has worker threads build the plans of `policy` for every M of `ms`, and waits for them if asked to. Returns the
// number of M's that run sparse.
int64_t prepare(const Tensor& values, bool bias, int64_t in_features, std::string epilogue, std::vector<int64_t> policy,
                bool residual, std::vector<int64_t> ms, bool wait) {
  constexpr const char* prepare_op = "linear_prepare";
  SF_REQUIRE(values.dim() == 2, prepare_op, "values must be a matrix, got " + words(values));
  // Of a layer in fp8 the plans multiply only: bias, activation and residual follow the scales.
  const bool fp8 = values.scalar_type() == ScalarType::Float8_e4m3fn;
  const Epilogue ending = epilogue_of(prepare_op, epilogue, values.size(0), residual);
  const Activation act = fp8 ? Activation::none : ending.before_gate();
  const DeviceWeight weight{values, values, in_features};  // plans don't depend on positions
  PlanCache& cache = PlanCache::instance();
  const bool library = load_cusparselt("").empty();
  int64_t count = 0;
  for (int64_t m : ms) {
    const Choice choice = choice_for(prepare_op, policy, m, Device::cuda);
    const bool planned = choice.kernel == Kernel::cusparselt;  // the other sparse kernels need no plan
    count += !planned && choice.kernel != Kernel::dense && m > 0;
    if (!planned || !library) continue;
    const Problem problem = problem_of(weight, {act, policy, bias && !fp8, residual && !fp8, m}, choice);
    if (m <= 0 || !refusal(problem).empty()) continue;
    cache.request(problem);
    ++count;
  }
  if (wait) cache.wait();
  return count;
}

}  // namespace
}  // namespace sparseflow::cuda

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) {
  m.impl("linear", TORCH_BOX(&sparseflow::cuda::linear));
  m.impl("linear_path", TORCH_BOX(&sparseflow::cuda::path));
  m.impl("linear_prepare", TORCH_BOX(&sparseflow::cuda::prepare));
}
