// The operators that convert weights to the layout of CUDA and back.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "driver.h"
#include "multiply.h"

namespace sparseflow::cuda {
namespace {

class Matrix {  // the library's descriptor of a structured matrix, for compressing
 public:
  Matrix(const Api& api, const Opaque* handle, const Tensor& w) : api_(api) {
    api.check(api.structured(handle, &descriptor, w.size(0), w.size(1), w.size(1), lt::kAlignment,
                             type_code(w.scalar_type()), lt::row_major, 0),
              "StructuredDescriptorInit");
  }
  ~Matrix() { api_.destroy_matrix(&descriptor); }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  Opaque descriptor;

 private:
  const Api& api_;
};

// Compresses a pruned weight [N, K] by the library; returns the buffer of padded values and positions.
Tensor compress(const Tensor& weight) {
  using enum ScalarType;
  const ScalarType dtype = weight.scalar_type();
  SF_REQUIRE(weight.dim() == 2 && weight.is_cuda() &&
                 (dtype == Half || dtype == BFloat16 || dtype == Char || dtype == Float8_e4m3fn),
             "cusparselt_compress",
             "weight must be a matrix [N, K] on CUDA, float16, bfloat16, int8 or float8_e4m3fn, got " + words(weight));
  const OnDevice guard(weight.get_device_index());
  const Layout layout{weight.size(0), weight.size(1), static_cast<int>(weight.element_size())};
  const Tensor w = padded(usable(weight), layout.n, layout.k, layout.padded_n(), layout.padded_k());
  const Api& api = cusparselt();
  const Opaque* handle = handle_of(w.get_device_index());
  const Matrix matrix(api, handle, w);
  size_t size = 0, scratch_size = 0;
  api.check(api.compressed_size(handle, &matrix.descriptor, &size, &scratch_size), "SpMMACompressedSize2");
  Tensor out = torch::stable::new_empty(w, {static_cast<int64_t>(size)}, ScalarType::Byte);
  Tensor scratch =
      torch::stable::new_empty(w, {static_cast<int64_t>(std::max<size_t>(scratch_size, 1))}, ScalarType::Byte);
  api.check(api.compress(handle, &matrix.descriptor, 1, lt::transpose_none, w.const_data_ptr(), out.mutable_data_ptr(),
                         scratch.mutable_data_ptr(), stream_of(w.get_device_index())),
            "SpMMACompress2");
  return out;
}

// Returns the same buffer, converted from the portable form without the library.
Tensor device_layout(const Tensor& values, const Tensor& positions, int64_t in_features) {
  constexpr const char* op = "device_layout";
  const int64_t groups = (in_features + 3) / 4, size = values.element_size();
  SF_REQUIRE(in_features >= 0 && values.is_cuda() && values.dim() == 2 && values.size(1) == 2 * groups &&
                 (size == 1 || size == 2 || size == 4),
             op,
             "in_features " + std::to_string(in_features) + " needs values [N, " + std::to_string(2 * groups) +
                 "] of 1, 2 or 4 bytes on CUDA, got " + words(values));
  check_tensor(op, "positions", positions, ScalarType::Byte, {values.size(0), (groups + 1) / 2},
               values.get_device_index());
  const OnDevice guard(values.get_device_index());
  const Tensor v = torch::stable::contiguous(values), p = torch::stable::contiguous(positions);
  const Layout layout = DeviceWeight{v, p, in_features}.layout();
  const int64_t bytes = layout.value_bytes();
  Tensor out = torch::stable::new_empty(p, {bytes + layout.position_bytes()});
  if (bytes == 0) return out;
  Tensor head = torch::stable::narrow(out, 0, 0, bytes);
  const int64_t row = v.size(1) * size, padded_row = layout.padded_k() / 2 * size;
  if (layout.n != layout.padded_n() || row != padded_row) torch::stable::zero_(head);
  Tensor rows = torch::stable::narrow(head, 0, 0, layout.n * padded_row);
  rows = torch::stable::view(rows, {layout.n, padded_row});
  rows = torch::stable::narrow(rows, 1, 0, row);
  torch::stable::copy_(rows, call_aten("aten::view", "dtype", v, ScalarType::Byte));
  to_device_positions(layout, static_cast<const uint8_t*>(p.const_data_ptr()),
                   static_cast<uint8_t*>(out.mutable_data_ptr()) + bytes, stream_of(v.get_device_index()));
  return out;
}

Tensor portable_positions(const Tensor& values, const Tensor& positions, int64_t in_features) {
  const DeviceWeight weight{values, positions, in_features};
  weight.check("portable_positions");
  const OnDevice guard(weight.device());
  Tensor out = torch::stable::new_empty(positions, {weight.n(), (weight.layout().groups() + 1) / 2});
  if (out.numel() == 0) return out;
  to_portable_positions(weight.layout(), static_cast<const uint8_t*>(positions.const_data_ptr()),
                     static_cast<uint8_t*>(out.mutable_data_ptr()), stream_of(values.get_device_index()));
  return out;
}

Tensor decompress_weight(const Tensor& values, const Tensor& positions, int64_t in_features) {
  const DeviceWeight weight{values, positions, in_features};
  weight.check("decompress");
  const OnDevice guard(weight.device());
  return dense_of(weight);
}

}  // namespace
}  // namespace sparseflow::cuda

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) {
  using namespace sparseflow::cuda;
  m.impl("cusparselt_compress", TORCH_BOX(&compress));
  m.impl("device_layout", TORCH_BOX(&device_layout));
  m.impl("portable_positions", TORCH_BOX(&portable_positions));
  m.impl("decompress", TORCH_BOX(&decompress_weight));
}
