// sparseflow::linear on CUDA: by M from its policy, a plan of cuSPARSELt or the decompressed weight and cuBLAS.
#include <torch/csrc/stable/library.h>

#include "cache.h"
#include "driver.h"
#include "multiply.h"

namespace sparseflow::cuda {
namespace {

constexpr const char* op = "linear";

// What a policy's code means (runtime/backends.py): the backend in the low byte, for cuSPARSELt the algorithm in the
// next two and split-k in the one above (0 leaves the choice, 255 stands for −1).
struct Choice {
  bool sparse = true;
  int64_t algorithm = 0, split_k = 0;
};

constexpr int64_t dense_backend = 0;

Choice decode(int64_t code) {
  const int64_t split = code >> 24 & 255;
  return {(code & 255) != dense_backend, code >> 8 & 0xffff, split == 255 ? -1 : split};
}

Choice choice_for(int64_t m, const std::vector<int64_t>& policy) {
  Choice choice;
  for (size_t i = 0; i + 1 < policy.size(); i += 2)
    if (i == 0 || policy[i] <= m) choice = decode(policy[i + 1]);
  return choice;
}

// The activations that the library lacks, in place.
Tensor activated(Tensor y, const std::string& epilogue) {
  if (epilogue == "relu") return call_aten("aten::relu_", "", y);
  if (epilogue == "silu") return call_aten("aten::silu_", "", y);
  if (epilogue == "gelu") return call_aten("aten::gelu_", "", y, std::string("none"));
  if (epilogue == "gelu_tanh") return call_aten("aten::gelu_", "", y, std::string("tanh"));
  require(epilogue == "none", op, "epilogue must be none, relu, gelu, gelu_tanh or silu, got '" + epilogue + "'");
  return y;
}

Tensor added(Tensor y, const std::optional<Tensor>& residual) {
  return residual ? torch::stable::subtract(y, *residual, -1.0) : y;  // the stable ABI has no add
}

Tensor run_dense(const Call& c, const std::string& epilogue, const std::optional<Tensor>& dense) {
  const Tensor weight = dense ? *dense : dense_of(c.weight);
  return added(activated(call_aten("aten::linear", "", c.x, weight, c.bias), epilogue), c.residual);
}

// The plan for this call, or null where the call must not wait for it, or there is none.
std::shared_ptr<Plan> plan_for(const Problem& problem) {
  PlanCache& cache = PlanCache::instance();
  if (auto plan = cache.find(problem)) return plan;
  if (!load_cusparselt("").empty() || !refusal(problem).empty()) return nullptr;
  if (!compiles(problem.in)) return cache.get(problem);
  cache.request(problem);
  return nullptr;
}

Tensor linear(const Tensor& x, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
              std::optional<Tensor> residual, int64_t in_features, std::string epilogue, std::vector<int64_t> policy,
              std::optional<Tensor> dense) {
  OnDevice guard(x);
  Call c(op, x, {values, positions, in_features}, std::move(bias), std::move(residual));
  if (dense && (dense->dim() != 2 || dense->size(0) != c.weight.n() || dense->size(1) != in_features ||
                dense->scalar_type() != values.scalar_type() ||
                dense->get_device_index() != values.get_device_index()))
    require(false, op, "dense must be the weight [" + std::to_string(c.weight.n()) + ", " +
                           std::to_string(in_features) + "] in the dtype and on the device of values, got " +
                           words(*dense));
  const Choice choice = choice_for(c.m, policy);
  if (!choice.sparse || c.m == 0 || !c.weight.joined()) return run_dense(c, epilogue, dense);
  const bool fused = epilogue == "relu" && !c.residual;
  const Problem problem =
      c.problem(x.scalar_type(), fused ? Activation::relu : Activation::none, choice.algorithm, choice.split_k);
  const std::shared_ptr<Plan> plan = plan_for(problem);
  if (!plan) return run_dense(c, epilogue, dense);
  if (fused || epilogue == "none") return multiply(*plan, problem, c);
  // The library adds C before the activation, the operator's residual comes after it.
  std::optional<Tensor> after = std::move(c.residual);
  c.residual.reset();
  return added(activated(multiply(*plan, problem, c), epilogue), after);
}

// Plans for every M of `ms` by `policy`, built by worker threads; waits for them if told to. Returns how many M's
// run sparse.
int64_t prepare(const Tensor& values, bool bias, int64_t in_features, std::string epilogue, std::vector<int64_t> policy,
                bool residual, std::vector<int64_t> ms, bool wait) {
  PlanCache& cache = PlanCache::instance();
  if (const std::string why = load_cusparselt(""); !why.empty()) return 0;
  const Activation activation = epilogue == "relu" && !residual ? Activation::relu : Activation::none;
  int64_t count = 0;
  for (int64_t m : ms) {
    const Choice choice = choice_for(m, policy);
    const ScalarType dtype = values.scalar_type();
    const Problem problem{values.get_device_index(), static_cast<int32_t>(values.size(0)),
                          static_cast<int32_t>(in_features), static_cast<int32_t>(bucket_of(m, dtype)), dtype, dtype,
                          activation, bias, false, static_cast<int16_t>(choice.algorithm),
                          static_cast<int16_t>(choice.split_k)};
    if (!choice.sparse || m <= 0 || !refusal(problem).empty()) continue;
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
  m.impl("linear_prepare", TORCH_BOX(&sparseflow::cuda::prepare));
}
