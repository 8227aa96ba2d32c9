#include "args.h"

#include <torch/csrc/stable/ops.h>

namespace sparseflow::cpu {

using torch::headeronly::ScalarType;

DType dtype_of(const char* op, const char* what, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::f32;
    case ScalarType::BFloat16: return DType::bf16;
    case ScalarType::Half: return DType::f16;
    default:
      refuse(op, std::string(what) + " must be float32, bfloat16 or float16, got " +
                     torch::headeronly::toString(t.scalar_type()));
  }
}

PackedRow packed_row(int64_t k, int64_t block) {
  const int64_t blocks = (k + block - 1) / block, bits = block == 8 ? 5 : 4;
  return {blocks * (block - 2), (blocks * bits + 7) / 8};
}

void check_packed(const char* op, const Tensor& values, const Tensor& positions, int64_t in_features, int64_t block) {
  SF_REQUIRE(block == 4 || block == 6 || block == 8, op, "block must be 4, 6 or 8, got " + std::to_string(block));
  dtype_of(op, "values", values);
  SF_REQUIRE(in_features >= 0, op, "in_features must not be negative, got " + std::to_string(in_features));
  SF_REQUIRE(values.dim() == 2 && positions.dim() == 2, op,
             "values and positions must be matrices, got " + shape_of(values) + " and " + shape_of(positions));
  SF_REQUIRE(positions.scalar_type() == ScalarType::Byte, op,
             std::string("positions must be uint8, got ") + torch::headeronly::toString(positions.scalar_type()));
  const PackedRow row = packed_row(in_features, block);
  SF_REQUIRE(values.size(1) == row.kept && positions.size(1) == row.bytes && values.size(0) == positions.size(0), op,
             "in_features " + std::to_string(in_features) + " needs values [N, " + std::to_string(row.kept) +
                 "] and positions [N, " + std::to_string(row.bytes) + "], got " + shape_of(values) + " and " +
                 shape_of(positions));
}

Tensor weight_of(const char* op, const Tensor& weight) {
  SF_REQUIRE(weight.dim() == 2, op, "weight must be a matrix [N, K], got " + shape_of(weight));
  dtype_of(op, "weight", weight);
  return torch::stable::contiguous(weight);
}

Weight bits_of(const Tensor& w, int64_t block) {
  return {w.size(0), w.size(1), w.const_data_ptr(), static_cast<int64_t>(w.element_size()), block};
}

Rows rows_of(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  int64_t count = 1;
  for (int64_t d = 0; d < last; ++d) count *= x.size(d);
  if (x.dim() == 2 && x.stride(1) == 1 && x.stride(0) >= x.size(1)) return {x, count, x.stride(0)};
  return {torch::stable::contiguous(x), count, x.size(last)};
}

}  // namespace sparseflow::cpu
