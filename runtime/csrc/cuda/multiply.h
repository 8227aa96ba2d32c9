// From tensors to one launch of a plan.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aten.h"
#include "layout.h"
#include "plan.h"

namespace sparseflow::cuda {

using torch::stable::Tensor;

// Throws std::runtime_error("sparseflow::<op>: <message>") unless `ok`.
void require(bool ok, const char* op, const std::string& message);

// "BFloat16 [2, 3]"
std::string words(const Tensor& t);

// A weight in the layout of CUDA: values [N, K/2] and, right behind them in one buffer, the places, 1-d.
struct DeviceWeight {
  const Tensor& values;
  const Tensor& positions;
  int64_t k;

  int64_t n() const { return values.size(0); }
  Layout layout() const;

  // Throws unless the two belong together, to `k` and to CUDA.
  void check(const char* op) const;

  // Whether the places follow the values without a gap, as cuSPARSELt wants them.
  bool joined() const;
};

struct Call {
  Tensor x;  // [..., K], contiguous
  DeviceWeight weight;
  std::optional<Tensor> bias, residual, scale;
  double alpha = 1;
  int64_t m;  // rows of x

  Call(const char* op, const Tensor& x, DeviceWeight weight, std::optional<Tensor> bias, std::optional<Tensor> residual);
  Problem problem(ScalarType out, Activation activation, int64_t algorithm, int64_t split_k) const;
};

// y [..., N] with rows one after the other; residual, if any, is added before the activation.
Tensor multiply(Plan& plan, const Problem& problem, const Call& call);

// The dense weight [N, K].
Tensor dense_of(const DeviceWeight& weight);

std::vector<int64_t> sizes_with_last(const Tensor& x, int64_t last);

// Runs inside for the device of `t`, if that isn't the current one.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& t);

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

}  // namespace sparseflow::cuda
