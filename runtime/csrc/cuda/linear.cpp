// sparseflow::linear on CUDA: by M from its policy, a plan of cuSPARSELt or the dense product by cuBLAS.
#include <torch/csrc/stable/library.h>

#include "cache.h"
#include "cpu/args.h"
#include "driver.h"
#include "route.h"
#include "skinny/call.h"

namespace sparseflow::cuda {
namespace {

constexpr const char* op = "linear";

// In place.
Tensor activated(const Tensor& y, Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::relu: return call_aten("aten::relu_", "", y);
    case Epilogue::silu: return call_aten("aten::silu_", "", y);
    case Epilogue::gelu: return call_aten("aten::gelu_", "", y, std::string("none"));
    case Epilogue::gelu_tanh: return call_aten("aten::gelu_", "", y, std::string("tanh"));
    case Epilogue::none: break;
  }
  return y;
}

Tensor added(const Tensor& y, const std::optional<Tensor>& residual) {
  return residual ? torch::stable::subtract(y, *residual, -1.0) : y;  // the stable ABI has no add
}

Tensor run_dense(const Call& c, Epilogue epilogue, const std::optional<Tensor>& dense) {
  const Tensor weight = dense ? *dense : dense_of(c.weight);
  return added(activated(call_aten("aten::linear", "", c.x, weight, c.bias), epilogue), c.residual);
}

Tensor run_sparse(Call& c, const Want& want, const Route& route) {
  if (fused(want) || want.epilogue == Epilogue::none) return multiply(*route.plan, route.problem, c);
  // The library adds C before the activation, the operator's residual comes after it.
  const std::optional<Tensor> after = std::move(c.residual);
  c.residual.reset();
  return added(activated(multiply(*route.plan, route.problem, c), want.epilogue), after);
}

Tensor linear(const Tensor& x, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
              std::optional<Tensor> residual, int64_t in_features, std::string epilogue, std::vector<int64_t> policy,
              std::optional<Tensor> dense) {
  cpu::dtype_of(op, "values", values);
  const Epilogue act = cpu::epilogue_of(op, epilogue);
  Call c(op, x, {values, positions, in_features}, std::move(bias), std::move(residual), values.scalar_type());
  if (dense) check_tensor(op, "dense", *dense, values.scalar_type(), {c.weight.n(), in_features}, c.weight.device());
  const Want want{act, policy, c.bias.has_value(), c.residual.has_value(), c.m};
  const Route chosen = route(c.weight, want, true);
  if (chosen.kind == Route::Kind::empty) return torch::stable::new_empty(c.x, sizes_with_last(c.x, c.weight.n()));
  if (chosen.kind == Route::Kind::skinny || chosen.kind == Route::Kind::stand_in_skinny)
    return skinny::product(c, act, chosen.variant);
  return chosen.plan ? run_sparse(c, want, chosen) : run_dense(c, act, dense);
}

// What linear, or product_fp8 for a weight in e4m3, would do now with m rows, in a sentence.
std::string path(const Tensor& values, const Tensor& positions, int64_t in_features, std::string epilogue,
                 std::vector<int64_t> policy, bool bias, bool residual, int64_t m) {
  if (values.scalar_type() != ScalarType::Float8_e4m3fn) cpu::dtype_of("linear_path", "values", values);
  require(m >= 0, "linear_path", "m must not be negative, got " + std::to_string(m));
  const DeviceWeight weight{values, positions, in_features};
  weight.check("linear_path");
  return sentence(route(weight, {cpu::epilogue_of("linear_path", epilogue), policy, bias, residual, m}, false));
}

// Plans for every M of `ms` by `policy`, built by worker threads; waits for them if told to. Returns how many M's
// run sparse.
int64_t prepare(const Tensor& values, bool bias, int64_t in_features, std::string epilogue, std::vector<int64_t> policy,
                bool residual, std::vector<int64_t> ms, bool wait) {
  constexpr const char* prepare_op = "linear_prepare";
  require(values.dim() == 2, prepare_op, "values must be a matrix, got " + words(values));
  const Epilogue act = cpu::epilogue_of(prepare_op, epilogue);
  const DeviceWeight weight{values, values, in_features};  // plans aren't tied to places
  PlanCache& cache = PlanCache::instance();
  const bool library = load_cusparselt("").empty();
  int64_t count = 0;
  for (int64_t m : ms) {
    const Choice choice = choice_for(prepare_op, policy, m, kCusparselt, "CUDA");
    count += choice.backend == kSkinny && m > 0;  // which needs no plan
    if (choice.backend != kCusparselt || !library) continue;
    const Problem problem = problem_of(weight, {act, policy, bias, residual, m}, choice);
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
