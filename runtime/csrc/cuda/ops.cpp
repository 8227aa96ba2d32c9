// The schemas of the CUDA operators, and the operators for the tuner: the state of the library, single products by
// algorithm, and the plan cache.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "cache.h"
#include "multiply.h"
#include "patterns/decode.h"
#include "skinny/skinny.h"
#include "wide/wide.h"

namespace sparseflow::cuda {
namespace {

Activation library_activation(const char* op, const std::string& epilogue) {
  if (epilogue == "none") return Activation::none;
  if (epilogue == "relu") return Activation::relu;
  if (epilogue == "gelu") return Activation::gelu;
  refuse(op, "cuSPARSELt's epilogues are none, relu and gelu, got '" + epilogue + "'");
}

// Throws if the product can't be run, instead of running another kernel than the one asked for.
Tensor product(const Tensor& x, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
               std::optional<Tensor> residual, std::optional<Tensor> scale, int64_t in_features, std::string epilogue,
               ScalarType out, double alpha, int64_t algorithm, int64_t split_k) {
  constexpr const char* op = "cusparselt_linear";
  Call c(op, x, {values, positions, in_features}, std::move(bias), std::move(residual), out);
  c.weight.check_whole(op);
  if (scale) check_tensor(op, "scale", *scale, ScalarType::Float, {values.size(0)}, c.weight.device());
  if (scale) c.scale = usable(*scale);
  c.alpha = alpha;
  if (c.m == 0) return torch::stable::new_empty(x, sizes_with_last(x, values.size(0)), out);
  Problem problem =
      c.weight.problem(c.m, out, library_activation(op, epilogue), c.bias.has_value(), algorithm, split_k);
  problem.scaled = c.scale.has_value();
  return multiply(*PlanCache::instance().get(problem), problem, c);
}

// Returns the number of algorithms for this product; their ids are 0 … count − 1.
int64_t algorithms(const Tensor& values, int64_t in_features, int64_t m, std::string epilogue, ScalarType out,
                   bool bias) {
  constexpr const char* op = "cusparselt_algorithms";
  SF_REQUIRE(values.dim() == 2 && m > 0, op, "values must be a matrix and m at least 1");
  const DeviceWeight weight{values, values, in_features};  // plans don't depend on positions
  const Problem problem = weight.problem(m, out, library_activation(op, epilogue), bias, 0, 0);
  return PlanCache::instance().get(problem)->algorithms();
}

std::string open(std::string path) { return load_cusparselt(path); }

int64_t version() { return cusparselt().version; }

bool has_kernels() { return kernels_built(); }

int64_t plan_rows(int64_t m, ScalarType in) { return bucket_of(m, in); }

std::vector<int64_t> stats() {
  const PlanCache::Stats s = PlanCache::instance().stats();
  return {s.plans, s.pinned, s.pending, s.failed, s.hits, s.built, s.evicted};
}

std::string failures() { return PlanCache::instance().failures(); }

void limit(int64_t plans) { PlanCache::instance().limit(static_cast<size_t>(std::max<int64_t>(plans, 1))); }

void wait() { PlanCache::instance().wait(); }

void reset(bool device_was_reset) {
  PlanCache::instance().clear(!device_was_reset);
  if (!device_was_reset) return;
  forget_handles();
  skinny::forget_devices();
  patterns::forget_devices();
  wide::forget_devices();
}

}  // namespace
}  // namespace sparseflow::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(sparseflow, m) {
  m.def(
      "linear_path(Tensor values, Tensor positions, int in_features, str epilogue, int[] policy, bool bias, "
      "bool residual, int m) -> str");
  m.def(
      "linear_prepare(Tensor values, bool bias, int in_features, str epilogue, int[] policy, bool residual, "
      "int[] ms, bool wait) -> int");
  m.def(
      "cusparselt_linear(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, Tensor? scale, "
      "int in_features, str epilogue, ScalarType out_dtype, float alpha, int algorithm, int split_k) -> Tensor");
  m.def(
      "cusparselt_algorithms(Tensor values, int in_features, int m, str epilogue, ScalarType out_dtype, bool bias) "
      "-> int");
  m.def("cusparselt_compress(Tensor weight) -> Tensor");
  m.def("device_layout(Tensor values, Tensor positions, int in_features) -> Tensor");
  m.def("portable_positions(Tensor values, Tensor positions, int in_features) -> Tensor");
  m.def("decompress(Tensor values, Tensor positions, int in_features) -> Tensor");
  m.def("cusparselt_open(str path) -> str");
  m.def("cusparselt_version() -> int");
  m.def("cusparselt_lift_refusals(bool on) -> ()");
  m.def("cuda_kernels_built() -> bool");
  m.def("plan_rows(int m, ScalarType dtype) -> int");
  m.def("plans_stats() -> int[]");
  m.def("plans_failures() -> str");
  m.def("plans_limit(int plans) -> ()");
  m.def("plans_wait() -> ()");
  m.def("plans_reset(bool device_was_reset) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) {
  using namespace sparseflow::cuda;
  m.impl("cusparselt_linear", TORCH_BOX(&product));
  m.impl("cusparselt_algorithms", TORCH_BOX(&algorithms));
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) {
  using namespace sparseflow::cuda;
  m.impl("cusparselt_open", TORCH_BOX(&open));
  m.impl("cusparselt_version", TORCH_BOX(&version));
  m.impl("cusparselt_lift_refusals", TORCH_BOX(&lift_refusals));
  m.impl("cuda_kernels_built", TORCH_BOX(&has_kernels));
  m.impl("plan_rows", TORCH_BOX(&plan_rows));
  m.impl("plans_stats", TORCH_BOX(&stats));
  m.impl("plans_failures", TORCH_BOX(&failures));
  m.impl("plans_limit", TORCH_BOX(&limit));
  m.impl("plans_wait", TORCH_BOX(&wait));
  m.impl("plans_reset", TORCH_BOX(&reset));
}
