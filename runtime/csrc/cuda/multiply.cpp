#include "multiply.h"

#include <algorithm>
#include <stdexcept>

#include "driver.h"

namespace sparseflow::cuda {
namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;

// Straight from the allocator: the dispatcher would cost a microsecond.
Tensor empty(IntHeaderOnlyArrayRef sizes, ScalarType dtype, int device) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (int64_t d = static_cast<int64_t>(sizes.size()) - 2; d >= 0; --d) strides[d] = strides[d + 1] * sizes[d + 1];
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), static_cast<int32_t>(dtype),
      static_cast<int32_t>(torch::headeronly::DeviceType::CUDA), device, &made));
  return Tensor(made);
}

// The first rows of `whole` [M', N], as [..., N].
Tensor first_rows(const Tensor& whole, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (int64_t d = static_cast<int64_t>(sizes.size()) - 2; d >= 0; --d) strides[d] = strides[d + 1] * sizes[d + 1];
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(whole.get(), static_cast<int64_t>(sizes.size()),
                                                               sizes.data(), strides.data(), 0, &made));
  return Tensor(made);
}

bool starts_aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % lt::alignment == 0;
}

// `t` with the bytes of `rows` rows behind its start readable. Rows that it lacks only reach rows of y that it
// lacks too, so whatever the memory behind it holds will do; a copy is made only at the end of an allocation.
Tensor with_rows(const Tensor& t, int64_t rows, int64_t width, int64_t m) {
  const auto row = static_cast<size_t>(width * t.element_size());
  if (rows == m || readable(t.const_data_ptr(), m * row, rows * row)) return t;
  return torch::stable::pad(torch::stable::view(t, {m, width}), {0, 0, 0, rows - m});
}

std::string on(const Tensor& t) { return t.is_cuda() ? "cuda:" + std::to_string(t.get_device_index()) : "no CUDA device"; }

std::string phrase(ScalarType dtype, const std::string& sizes, const std::string& device) {
  return torch::headeronly::toString(dtype) + (" " + sizes) + " on " + device;
}

// Everything before a kernel of any device is touched; returns the rows of x.
int64_t check_call(const char* op, const Tensor& x, const DeviceWeight& w, const std::optional<Tensor>& bias,
                   const std::optional<Tensor>& residual, ScalarType out) {
  w.check(op);
  const int64_t dim = x.dim();
  const ScalarType in = w.values.scalar_type();
  if (dim < 1 || x.size(dim - 1) != w.k || x.scalar_type() != in || !x.is_cuda() || x.get_device_index() != w.device())
    require(false, op,
            "x must be " + phrase(in, "[..., " + std::to_string(w.k) + "]", on(w.values)) + ", got " + words(x));
  if (bias) check_tensor(op, "bias", *bias, bias_dtype(in, out), {w.n()}, w.device());
  if (residual) check_tensor(op, "residual", *residual, residual_dtype(out), sizes_with_last(x, w.n()), w.device());
  int64_t rows = 1;
  for (int64_t d = 0; d + 1 < dim; ++d) rows *= x.size(d);
  return rows;
}

std::optional<Tensor> usable(const std::optional<Tensor>& t) {
  return t ? std::optional(cuda::usable(*t)) : std::nullopt;
}

}  // namespace

std::string words(const Tensor& t) { return phrase(t.scalar_type(), shape_of(t), on(t)); }

void check_tensor(const char* op, const char* what, const Tensor& t, ScalarType dtype,
                  const std::vector<int64_t>& sizes, int device) {
  const auto has = t.sizes();
  if (t.scalar_type() == dtype && t.is_cuda() && t.get_device_index() == device &&
      std::equal(has.begin(), has.end(), sizes.begin(), sizes.end()))
    return;
  std::string wanted = "[";
  for (size_t d = 0; d < sizes.size(); ++d) wanted += (d ? ", " : "") + std::to_string(sizes[d]);
  require(false, op, std::string(what) + " must be " + phrase(dtype, wanted + "]", "cuda:" + std::to_string(device)) +
                         ", got " + words(t));
}

Tensor usable(const Tensor& t) {
  const Tensor c = t.is_contiguous() ? t : torch::stable::contiguous(t);
  return starts_aligned(c) ? c : torch::stable::clone(c);
}

OnDevice::OnDevice(int device) {
  if (torch::stable::accelerator::getCurrentDeviceIndex() != device) guard_.emplace(device);
}

void DeviceWeight::check(const char* op) const {
  if (k < 0 || values.dim() != 2 || values.size(1) != (k + 3) / 4 * 2 || !values.is_contiguous() || !values.is_cuda())
    require(false, op, "in_features " + std::to_string(k) + " needs contiguous values [N, " +
                           std::to_string((k + 3) / 4 * 2) + "] on CUDA, got " + words(values));
  if (positions.scalar_type() != ScalarType::Byte || positions.dim() != 1 ||
      positions.numel() != layout().place_bytes() || !positions.is_contiguous() || !positions.is_cuda() ||
      positions.get_device_index() != device())
    require(false, op, "positions must be the " + std::to_string(layout().place_bytes()) +
                           " bytes of the layout of CUDA on the values' device, got " + words(positions) +
                           "; sparseflow::device_layout(values, positions, in_features) makes them");
}

bool DeviceWeight::joined() const {
  return static_cast<const char*>(values.const_data_ptr()) + values.numel() * values.element_size() ==
         positions.const_data_ptr();
}

bool DeviceWeight::aligned() const { return starts_aligned(values) && starts_aligned(positions); }

Problem DeviceWeight::problem(int64_t m, ScalarType out, Activation activation, bool bias, int64_t algorithm,
                              int64_t split_k) const {
  const ScalarType in = values.scalar_type();
  return {device(), n(),   k,    bucket_of(m, in), in, out, activation, bias, false, static_cast<int32_t>(algorithm),
          static_cast<int32_t>(split_k)};
}

Call::Call(const char* op, const Tensor& x_, DeviceWeight w, std::optional<Tensor> bias_,
           std::optional<Tensor> residual_, ScalarType out)
    : weight(w),
      m(check_call(op, x_, w, bias_, residual_, out)),
      guard(w.device()),
      x(usable(x_)),
      bias(usable(bias_)),
      residual(usable(residual_)) {}

Tensor multiply(Plan& plan, const Problem& p, const Call& call) {
  const int64_t m = call.m, n = p.n;
  std::vector<int64_t> sizes = sizes_with_last(call.x, n);
  Tensor whole = p.m == m ? empty(sizes, p.out, p.device) : empty(std::vector<int64_t>{p.m, n}, p.out, p.device);
  const Tensor x = with_rows(call.x, p.m, p.k, m);
  std::optional<Tensor> residual, workspace;
  if (call.residual) residual = with_rows(*call.residual, p.m, n, m);
  if (const auto bytes = static_cast<int64_t>(plan.workspace()))
    workspace = empty(std::vector<int64_t>{bytes}, ScalarType::Byte, p.device);
  void* y = whole.mutable_data_ptr();
  void* stream = stream_of(p.device);
  if (!plan.pinned && capturing(stream)) plan.pinned = true;
  plan.run({.weight = call.weight.values.const_data_ptr(),
            .x = x.const_data_ptr(),
            .c = residual ? residual->const_data_ptr() : y,
            .bias = call.bias ? call.bias->const_data_ptr() : nullptr,
            .scale = call.scale ? static_cast<const float*>(call.scale->const_data_ptr()) : nullptr,
            .alpha = static_cast<float>(call.alpha),
            .beta = residual ? 1.f : 0.f,
            .y = y,
            .workspace = workspace ? workspace->mutable_data_ptr() : nullptr,
            .stream = stream});
  return p.m == m ? whole : first_rows(whole, sizes);
}

Tensor dense_of(const DeviceWeight& weight) {
  const int device = weight.device();
  Tensor out = empty(std::vector<int64_t>{weight.n(), weight.k}, weight.values.scalar_type(), device);
  if (out.numel() == 0) return out;
  decompress(weight.layout(), weight.values.const_data_ptr(),
             static_cast<const uint8_t*>(weight.positions.const_data_ptr()), out.mutable_data_ptr(), stream_of(device));
  return out;
}

}  // namespace sparseflow::cuda
