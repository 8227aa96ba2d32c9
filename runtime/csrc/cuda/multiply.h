// From tensors to one launch of a plan.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/aten.h"
#include "common/checks.h"
#include "layout.h"
#include "plan.h"

namespace sparseflow::cuda {

// Describes a tensor for messages: "BFloat16 [2, 3] on cuda:0".
std::string words(const Tensor& t);

// Throws unless `t` has this dtype and these sizes and is on this CUDA device.
void check_tensor(const char* op, const char* what, const Tensor& t, ScalarType dtype,
                  const std::vector<int64_t>& sizes, int device);

// A weight in the layout of CUDA: values [N, Kp/2], which are a view into a buffer that holds them padded, and the 1-d
// positions right after them in that buffer.
struct DeviceWeight {
  const Tensor& values;
  const Tensor& positions;
  int64_t k;

  int64_t n() const { return values.size(0); }
  int device() const { return values.get_device_index(); }
  Layout layout() const { return {n(), k, static_cast<int>(values.element_size())}; }

  // Throws unless values, positions and `k` fit each other and are on CUDA.
  void check(const char* op) const;

  // Elements from one row of values to the next.
  int64_t pitch() const { return n() > 1 ? values.stride(0) : values.size(1); }

  // Whether the values are padded, the positions follow them in memory, and both are aligned as cuSPARSELt needs.
  bool joined() const;
  bool aligned() const;

  // Throws unless joined(), because kernels read the buffer as a whole.
  void check_whole(const char* op) const;

  // The problem of m rows of x, rounded up to their bucket, with the padded weight.
  Problem problem(int64_t m, ScalarType out, Activation activation, bool bias, int64_t algorithm,
                  int64_t split_k) const;
};

// Makes a CUDA device current during its lifetime.
class OnDevice {
 public:
  explicit OnDevice(int device);

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

// The checked arguments of a product, in a form that a plan can read. Its device is current during its lifetime.
struct Call {
  DeviceWeight weight;
  int64_t m;  // rows of x
  OnDevice guard;
  Tensor x;  // [..., K], contiguous
  std::optional<Tensor> bias, residual, scale;  // scale [N], of rows of W
  double alpha = 1;

  // Throws unless the arguments fit each other, x of dtype `in` and a result of dtype `out`.
  Call(const char* op, const Tensor& x, DeviceWeight weight, std::optional<Tensor> bias, std::optional<Tensor> residual,
       ScalarType in, ScalarType out);

  // The same for x of W's dtype.
  Call(const char* op, const Tensor& x, DeviceWeight weight, std::optional<Tensor> bias, std::optional<Tensor> residual,
       ScalarType out);
};

// Returns y [..., N], contiguous; a residual is added before the activation.
Tensor multiply(Plan& plan, const Problem& problem, const Call& call);

// The dense weight [N, K].
Tensor dense_of(const DeviceWeight& weight);

// Returns `t`, copied if it isn't contiguous and aligned as the library needs.
Tensor usable(const Tensor& t);
std::optional<Tensor> usable(const std::optional<Tensor>& t);

// Returns contiguous `t` [..., width] of `m` rows as [rows, columns], padded with zeros; `t` itself if nothing is
// padded.
Tensor padded(const Tensor& t, int64_t m, int64_t width, int64_t rows, int64_t columns);

// Returns the first m rows and n columns of `whole`, contiguous and with the given sizes.
Tensor cropped(const Tensor& whole, int64_t m, int64_t n, const std::vector<int64_t>& sizes);

}  // namespace sparseflow::cuda
