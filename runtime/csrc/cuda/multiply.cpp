#include "multiply.h"

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

bool aligned(const Tensor& t) { return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % lt::alignment == 0; }

Tensor usable(const Tensor& t) {
  Tensor c = t.is_contiguous() ? t : torch::stable::contiguous(t);
  return aligned(c) ? c : torch::stable::clone(c);
}

// `t` with the bytes of `rows` rows behind its start readable. Rows that it lacks only reach rows of y that it
// lacks too, so whatever the memory behind it holds will do; a copy is made only at the end of an allocation.
Tensor with_rows(const Tensor& t, int64_t rows, int64_t width, int64_t m, int element_size) {
  if (rows == m || readable(t.const_data_ptr(), static_cast<size_t>(rows * width * element_size))) return t;
  return torch::stable::pad(torch::stable::view(t, {m, width}), {0, 0, 0, rows - m});
}

int element_size(ScalarType t) {
  switch (t) {
    case ScalarType::Char:
    case ScalarType::Float8_e4m3fn: return 1;
    case ScalarType::BFloat16:
    case ScalarType::Half: return 2;
    default: return 4;
  }
}

}  // namespace

std::string words(const Tensor& t) {
  std::string text = torch::headeronly::toString(t.scalar_type()) + std::string(" [");
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + "]";
}

void require(bool ok, const char* op, const std::string& message) {
  if (!ok) throw std::runtime_error("sparseflow::" + std::string(op) + ": " + message);
}

std::vector<int64_t> sizes_with_last(const Tensor& x, int64_t last) {
  const auto sizes = x.sizes();
  std::vector<int64_t> out(sizes.begin(), sizes.end());
  out.back() = last;
  return out;
}

OnDevice::OnDevice(const Tensor& t) {
  const int32_t device = t.get_device_index();
  if (torch::stable::accelerator::getCurrentDeviceIndex() != device) guard_.emplace(device);
}

Layout DeviceWeight::layout() const { return {n(), k, element_size(values.scalar_type())}; }

void DeviceWeight::check(const char* op) const {
  if (values.dim() != 2 || values.size(1) != (k + 3) / 4 * 2 || !values.is_contiguous() || !values.is_cuda())
    require(false, op, "in_features " + std::to_string(k) + " needs contiguous values [N, " +
                           std::to_string((k + 3) / 4 * 2) + "] on CUDA, got " + words(values));
  if (positions.scalar_type() != ScalarType::Byte || positions.numel() != layout().place_bytes() ||
      positions.dim() != 1 || !positions.is_contiguous() || positions.get_device_index() != values.get_device_index())
    require(false, op, "positions must be the " + std::to_string(layout().place_bytes()) +
                           " bytes of the layout of CUDA on the values' device, got " + words(positions) +
                           "; sparseflow::device_layout(values, positions, in_features) makes them");
}

bool DeviceWeight::joined() const {
  return static_cast<const char*>(values.const_data_ptr()) + values.numel() * layout().element_size ==
         positions.const_data_ptr();
}

Call::Call(const char* op, const Tensor& x_, DeviceWeight w, std::optional<Tensor> bias_, std::optional<Tensor> residual_)
    : x(usable(x_)), weight(w), bias(std::move(bias_)), residual(std::move(residual_)) {
  weight.check(op);
  const int64_t dim = x.dim();
  if (dim < 1 || x.size(dim - 1) != weight.k || x.scalar_type() != weight.values.scalar_type() ||
      x.get_device_index() != weight.values.get_device_index())
    require(false, op, "x must be " + std::string(torch::headeronly::toString(weight.values.scalar_type())) +
                           " [..., " + std::to_string(weight.k) + "] on the weight's device, got " + words(x));
  if (bias && (bias->dim() != 1 || bias->size(0) != weight.n() || !bias->is_cuda()))
    require(false, op, "bias must be [" + std::to_string(weight.n()) + "] on CUDA, got " + words(*bias));
  if (bias) bias = usable(*bias);
  m = weight.k ? x.numel() / weight.k : 0;
  if (residual && (residual->numel() != m * weight.n() || !residual->is_cuda()))
    require(false, op, "residual must have the shape of the output, got " + words(*residual));
  if (residual) residual = usable(*residual);
}

Problem Call::problem(ScalarType out, Activation activation, int64_t algorithm, int64_t split_k) const {
  return {x.get_device_index(),
          static_cast<int32_t>(weight.n()),
          static_cast<int32_t>(weight.k),
          static_cast<int32_t>(bucket_of(m, x.scalar_type())),
          x.scalar_type(),
          out,
          activation,
          bias.has_value(),
          scale.has_value(),
          static_cast<int16_t>(algorithm),
          static_cast<int16_t>(split_k)};
}

Tensor multiply(Plan& plan, const Problem& p, const Call& call) {
  const int64_t m = call.m, n = p.n;
  std::vector<int64_t> sizes = sizes_with_last(call.x, n);
  Tensor whole = p.m == m ? empty(sizes, p.out, p.device) : empty(std::vector<int64_t>{p.m, n}, p.out, p.device);
  const Tensor x = with_rows(call.x, p.m, p.k, m, element_size(p.in));
  std::optional<Tensor> residual, workspace;
  if (call.residual) residual = with_rows(*call.residual, p.m, n, m, element_size(call.residual->scalar_type()));
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
  const int device = weight.values.get_device_index();
  Tensor out = empty(std::vector<int64_t>{weight.n(), weight.k}, weight.values.scalar_type(), device);
  if (out.numel() == 0) return out;
  decompress(weight.layout(), weight.values.const_data_ptr(),
             static_cast<const uint8_t*>(weight.positions.const_data_ptr()), out.mutable_data_ptr(), stream_of(device));
  return out;
}

}  // namespace sparseflow::cuda
