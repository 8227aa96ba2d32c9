// sparseflow::linear on CPU: checks, dispatch by M, and the parallel loops around the kernels.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>

#include "args.h"
#include "common/choice.h"
#include "common/epilogue.h"
#include "common/registered.h"
#include "dense.h"
#include "finish.h"
#include "isa.h"
#include "scratch.h"
#include "tape.h"

namespace sparseflow::cpu {
namespace {

constexpr int64_t kSmall = 128 * 1024;  // elements of x

void check(const char* op, int64_t block, const Tensor& x, const Tensor& values, const Tensor& positions,
           const std::optional<Tensor>& bias, const std::optional<Tensor>& residual, const std::optional<Tensor>& dense,
           int64_t k) {
  check_packed(op, values, positions, k, block);
  SF_REQUIRE(x.dim() >= 1 && x.size(x.dim() - 1) == k, op,
             "x must be [..., " + std::to_string(k) + "], got " + shape_of(x));
  const int64_t n = values.size(0);
  const auto same = [&](const Tensor& t, const char* what) {
    SF_REQUIRE(t.scalar_type() == values.scalar_type(), op,
               std::string(what) + " must have the dtype of the weight, " +
                   torch::headeronly::toString(values.scalar_type()) + ", got " +
                   torch::headeronly::toString(t.scalar_type()));
  };
  same(x, "x");
  if (bias) {
    same(*bias, "bias");
    SF_REQUIRE(bias->dim() == 1 && bias->size(0) == n, op,
               "bias must be [" + std::to_string(n) + "], got " + shape_of(*bias));
  }
  if (residual) {
    same(*residual, "residual");
    bool equal = residual->dim() == x.dim() && residual->size(x.dim() - 1) == n;
    for (int64_t d = 0; equal && d + 1 < x.dim(); ++d) equal = residual->size(d) == x.size(d);
    SF_REQUIRE(equal, op,
               "residual must have the shape of the result, got " + shape_of(*residual) + " for x " + shape_of(x) +
                   " and N " + std::to_string(n));
  }
  if (dense) {
    same(*dense, "dense");
    SF_REQUIRE(
        dense->dim() == 2 && dense->size(0) == n && dense->size(1) == k, op,
        "dense must be the weight [" + std::to_string(n) + ", " + std::to_string(k) + "], got " + shape_of(*dense));
  }
}

// Multiplies panels of rows of x one after the other. For each panel, the threads share the preparation of x, and then
// the rows of W.
void multiply(const Linear& whole) {
  const Kernels& k = kernels();
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  const int64_t size = whole.dtype == DType::f32 ? 4 : 2, step = k.panel(whole);
  for (int64_t m = 0; m < whole.m; m += step) {
    Linear a = whole;
    a.m = std::min(step, whole.m - m);
    a.x = static_cast<const char*>(whole.x) + m * whole.x_stride * size;
    a.y = static_cast<char*>(whole.y) + m * whole.n * size;
    if (a.residual) a.residual = static_cast<const char*>(whole.residual) + m * whole.n * size;
    Plan plan;
    plan.block_bytes = first_cache_bytes() * 2 / 3;
    plan.one_stream = reads_one_stream();
    k.plan(a, threads, plan);
    const Scratch scratch(plan.scratch_bytes);
    plan.scratch = scratch.data();
    // For a small x, one thread prepares everything, as sharing the preparation costs more than it saves.
    const int64_t grain = a.m * a.k < kSmall ? plan.prepare_tasks : 1;
    torch::stable::parallel_for(0, plan.prepare_tasks, grain, [&](int64_t b, int64_t e) { plan.prepare(plan, b, e); });
    torch::stable::parallel_for(0, plan.run_tasks, 1, [&](int64_t b, int64_t e) {
      const Scratch local(plan.local_bytes);
      plan.run(plan, b, e, local.data());
    });
  }
}

// An operator over a weight that keeps all but two of each `Block` columns.
template <int Block>
Tensor linear(const Tensor& x_, const Tensor& values_, const Tensor& positions_, std::optional<Tensor> bias,
              std::optional<Tensor> residual, int64_t k, std::string epilogue, std::vector<int64_t> policy,
              std::optional<Tensor> dense) {
  constexpr const char* op = Block == 4 ? "linear" : Block == 6 ? "linear_4_6" : "linear_6_8";
  check(op, Block, x_, values_, positions_, bias, residual, dense, k);
  const Epilogue ending = epilogue_of(op, epilogue, values_.size(0), residual.has_value());
  const Activation act = ending.before_gate();
  const Rows x = rows_of(x_);
  const Tensor values = torch::stable::contiguous(values_), positions = torch::stable::contiguous(positions_);
  if (bias) bias = torch::stable::contiguous(*bias);
  const void* residual_at = residual ? residual->const_data_ptr() : nullptr;
  if (residual) residual = torch::stable::contiguous(*residual);
  const Choice choice = choice_for(op, policy, x.count, Device::cpu);
  if (choice.kernel != Kernel::cpu) spoil_tape("a 2:4 layer runs by another kernel than ours");
  if (choice.kernel == Kernel::dense) {
    const Tensor y = dense_linear(x_, values, positions, bias, residual, k, act, dense, Block);
    return ending.gated ? gated(y, ending.activation) : y;
  }
  if (choice.kernel == Kernel::registered)
    return run_registered(x_, values, positions, bias, residual, k, epilogue, choice);
  if (x.tensor.const_data_ptr() != x_.const_data_ptr() || (residual && residual->const_data_ptr() != residual_at))
    spoil_tape("an input of a 2:4 layer doesn't lie in one piece");
  const int64_t n = values.size(0);
  Tensor y = torch::stable::new_empty(x_, sizes_with_last(x_, n));
  const Tensor out = ending.gated ? torch::stable::new_empty(x_, sizes_with_last(x_, n / 2)) : y;
  const Linear whole = {x.count, n, k, x.tensor.const_data_ptr(), x.stride, values.const_data_ptr(),
                        static_cast<const uint8_t*>(positions.const_data_ptr()), bias ? bias->const_data_ptr() : nullptr,
                        residual ? residual->const_data_ptr() : nullptr, y.mutable_data_ptr(), dtype_of(op, "x", x_),
                        act, Block};
  const std::function<void()> gate = ending.gated ? gating(y, ending.activation, out) : nullptr;
  // Copies of the tensors hold their memory.
  perform([=, held = std::array{x.tensor, values, positions, bias.value_or(y), residual.value_or(y), y, out}] {
    multiply(whole);
    if (gate) gate();
  });
  return out;
}

}  // namespace
}  // namespace sparseflow::cpu

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CPU, m) {
  m.impl("linear", TORCH_BOX(&sparseflow::cpu::linear<4>));
  m.impl("linear_4_6", TORCH_BOX(&sparseflow::cpu::linear<6>));
  m.impl("linear_6_8", TORCH_BOX(&sparseflow::cpu::linear<8>));
}
