#include "multiply.h"

#include <algorithm>
#include <stdexcept>

#include "driver.h"

namespace sparseflow::cuda {
namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;

// Calls the allocator directly, as the dispatcher would cost a microsecond.
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
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % lt::kAlignment == 0;
}

// Returns `t` [..., width] of m rows with `columns` columns, so that the bytes of `rows` rows can be read. Missing rows
// affect only rows of y that are dropped, so any readable memory after `t` will do; a copy with more rows is made only
// at the end of an allocation. Missing columns are multiplied by zeros of the weight, and must therefore not be NaN.
Tensor with_rows(const Tensor& t, int64_t m, int64_t width, int64_t rows, int64_t columns) {
  const auto row = static_cast<size_t>(width * t.element_size());
  if (width == columns && (rows == m || readable(t.const_data_ptr(), m * row, rows * row))) return t;
  return padded(t, m, width, rows, columns);
}

// Pads a vector with zeros to `size`.
std::optional<Tensor> lengthened(const std::optional<Tensor>& t, int64_t size) {
  return t ? std::optional(padded(*t, 1, t->numel(), 1, size)) : std::nullopt;
}

std::string on(const Tensor& t) { return t.is_cuda() ? "cuda:" + std::to_string(t.get_device_index()) : "no CUDA device"; }

std::string phrase(ScalarType dtype, const std::string& sizes, const std::string& device) {
  return torch::headeronly::toString(dtype) + (" " + sizes) + " on " + device;
}

// Checks all arguments before anything touches a device; returns the rows of x.
int64_t check_call(const char* op, const Tensor& x, const DeviceWeight& w, const std::optional<Tensor>& bias,
                   const std::optional<Tensor>& residual, ScalarType in, ScalarType out) {
  w.check(op);
  const int64_t dim = x.dim();
  if (dim < 1 || x.size(dim - 1) != w.k || x.scalar_type() != in || !x.is_cuda() || x.get_device_index() != w.device())
    refuse(op, "x must be " + phrase(in, "[..., " + std::to_string(w.k) + "]", on(w.values)) + ", got " + words(x));
  if (bias) check_tensor(op, "bias", *bias, bias_dtype(in, out), {w.n()}, w.device());
  if (residual) check_tensor(op, "residual", *residual, residual_dtype(out), sizes_with_last(x, w.n()), w.device());
  int64_t rows = 1;
  for (int64_t d = 0; d + 1 < dim; ++d) rows *= x.size(d);
  return rows;
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
  refuse(op, std::string(what) + " must be " + phrase(dtype, wanted + "]", "cuda:" + std::to_string(device)) +
                 ", got " + words(t));
}

Tensor usable(const Tensor& t) {
  const Tensor c = t.is_contiguous() ? t : torch::stable::contiguous(t);
  return starts_aligned(c) ? c : torch::stable::clone(c);
}

std::optional<Tensor> usable(const std::optional<Tensor>& t) {
  return t ? std::optional(usable(*t)) : std::nullopt;
}

Tensor padded(const Tensor& t, int64_t m, int64_t width, int64_t rows, int64_t columns) {
  if (m == rows && width == columns) return t;
  return torch::stable::pad(torch::stable::view(t, {m, width}), {0, columns - width, 0, rows - m});
}

Tensor cropped(const Tensor& whole, int64_t m, int64_t n, const std::vector<int64_t>& sizes) {
  if (whole.size(1) == n) return whole.size(0) == m ? torch::stable::view(whole, sizes) : first_rows(whole, sizes);
  Tensor part = whole;
  part = torch::stable::narrow(part, 0, 0, m);
  part = torch::stable::narrow(part, 1, 0, n);
  return torch::stable::view(torch::stable::contiguous(part), sizes);
}

OnDevice::OnDevice(int device) {
  if (torch::stable::accelerator::getCurrentDeviceIndex() != device) guard_.emplace(device);
}

void DeviceWeight::check(const char* op) const {
  const bool shaped = k >= 0 && values.dim() == 2 && values.size(1) == (k + 3) / 4 * 2 && values.is_cuda();
  const bool by_rows = shaped && (values.numel() == 0 || (values.stride(1) == 1 && pitch() >= values.size(1)));
  if (!by_rows)
    refuse(op, "in_features " + std::to_string(k) + " needs values [N, " + std::to_string((k + 3) / 4 * 2) +
                   "] row by row on CUDA, got " + words(values));
  if (positions.scalar_type() != ScalarType::Byte || positions.dim() != 1 ||
      positions.numel() != layout().position_bytes() || !positions.is_contiguous() || !positions.is_cuda() ||
      positions.get_device_index() != device())
    refuse(op, "positions must be the " + std::to_string(layout().position_bytes()) +
                   " bytes of the layout of CUDA on the values' device, got " + words(positions) +
                   "; sparseflow::device_layout(values, positions, in_features) makes them");
}

bool DeviceWeight::joined() const {
  const Layout l = layout();
  if (values.numel() == 0) return true;
  return (n() < 2 || pitch() == l.padded_k() / 2) &&
         static_cast<const char*>(values.const_data_ptr()) + l.value_bytes() == positions.const_data_ptr();
}

bool DeviceWeight::aligned() const { return starts_aligned(values) && starts_aligned(positions); }

void DeviceWeight::check_whole(const char* op) const {
  SF_REQUIRE(
      joined() && aligned(), op,
      "values must lie padded to multiples of 64, and positions right behind them, in one buffer that starts at a "
      "multiple of 16 bytes; sparseflow::device_layout makes it");
}

Problem DeviceWeight::problem(int64_t m, ScalarType out, Activation activation, bool bias, int64_t algorithm,
                              int64_t split_k) const {
  const ScalarType in = values.scalar_type();
  const Layout l = layout();
  return {device(), l.padded_n(), l.padded_k(), bucket_of(m, in), in, out, activation, bias, false,
          static_cast<int32_t>(algorithm), static_cast<int32_t>(split_k)};
}

Call::Call(const char* op, const Tensor& x_, DeviceWeight w, std::optional<Tensor> bias_,
           std::optional<Tensor> residual_, ScalarType out)
    : Call(op, x_, w, std::move(bias_), std::move(residual_), w.values.scalar_type(), out) {}

Call::Call(const char* op, const Tensor& x_, DeviceWeight w, std::optional<Tensor> bias_,
           std::optional<Tensor> residual_, ScalarType in, ScalarType out)
    : weight(w),
      m(check_call(op, x_, w, bias_, residual_, in, out)),
      guard(w.device()),
      x(usable(x_)),
      bias(usable(bias_)),
      residual(usable(residual_)) {}

Tensor multiply(Plan& plan, const Problem& p, const Call& call) {
  const int64_t m = call.m, n = call.weight.n();
  const std::vector<int64_t> sizes = sizes_with_last(call.x, n);
  const bool exact = p.m == m && p.n == n;
  Tensor whole = exact ? empty(sizes, p.out, p.device) : empty(std::vector<int64_t>{p.m, p.n}, p.out, p.device);
  const Tensor x = with_rows(call.x, m, call.weight.k, p.m, p.k);
  const auto bias = lengthened(call.bias, p.n), scale = lengthened(call.scale, p.n);
  std::optional<Tensor> residual, workspace;
  if (call.residual) residual = with_rows(*call.residual, m, n, p.m, p.n);
  if (const auto bytes = static_cast<int64_t>(plan.workspace()))
    workspace = empty(std::vector<int64_t>{bytes}, ScalarType::Byte, p.device);
  void* y = whole.mutable_data_ptr();
  void* stream = stream_of(p.device);
  if (!plan.pinned && capturing(stream)) plan.pinned = true;
  plan.run({.weight = call.weight.values.const_data_ptr(),
            .x = x.const_data_ptr(),
            .c = residual ? residual->const_data_ptr() : y,
            .bias = bias ? bias->const_data_ptr() : nullptr,
            .scale = scale ? static_cast<const float*>(scale->const_data_ptr()) : nullptr,
            .alpha = static_cast<float>(call.alpha),
            .beta = residual ? 1.f : 0.f,
            .y = y,
            .workspace = workspace ? workspace->mutable_data_ptr() : nullptr,
            .stream = stream});
  return exact ? whole : cropped(whole, m, n, sizes);
}

Tensor dense_of(const DeviceWeight& weight) {
  const int device = weight.device();
  Tensor out = empty(std::vector<int64_t>{weight.n(), weight.k}, weight.values.scalar_type(), device);
  if (out.numel() == 0) return out;
  decompress(weight.layout(), weight.values.const_data_ptr(), weight.pitch(),
             static_cast<const uint8_t*>(weight.positions.const_data_ptr()), out.mutable_data_ptr(), stream_of(device));
  return out;
}

}  // namespace sparseflow::cuda
