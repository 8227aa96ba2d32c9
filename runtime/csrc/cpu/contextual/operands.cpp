#include "operands.h"

#include <algorithm>

#include "common/epilogue.h"

namespace sparseflow::cpu::contextual {
namespace {

using torch::headeronly::ScalarType;

int64_t pitch_of(int64_t columns) { return (columns + 63) / 64 * 64 + 16; }

Stored stored_of(const char* op, const char* name, const Tensor& t) {
  if (t.scalar_type() == ScalarType::Char) return Stored::i8;
  switch (dtype_of(op, name, t)) {
    case DType::bf16: return Stored::bf16;
    case DType::f16: return Stored::f16;
    default: return Stored::f32;
  }
}

std::string described(const Tensor& t) {
  return std::string(torch::headeronly::toString(t.scalar_type())) + " " + shape_of(t);
}

}  // namespace

const void* vector_of(const char* op, const char* name, const Maybe& t, ScalarType type, int64_t length) {
  if (!t) return nullptr;
  SF_REQUIRE(t->dim() == 1 && t->size(0) == length && t->scalar_type() == type && t->is_contiguous(), op,
             std::string(name) + " must be contiguous " + torch::headeronly::toString(type) + " [" +
                 std::to_string(length) + "], got " + described(*t));
  return t->const_data_ptr();
}

Matrix rows_in_place(const char* op, const char* name, const Tensor& t) {
  SF_REQUIRE(t.dim() == 2 && t.is_contiguous(), op,
             std::string(name) + " must be a contiguous matrix: its rows are read in place; got " + described(t));
  return {t.const_data_ptr(), nullptr, stored_of(op, name, t), t.size(0), t.size(1)};
}

Matrix matrix_of(const char* op, const char* name, const Tensor& t, const Maybe& scale) {
  Matrix m = rows_in_place(op, name, t);
  SF_REQUIRE(scale.has_value() == (m.stored == Stored::i8), op,
             std::string(name) + ": int8 weights have scales, other weights none");
  m.scale = static_cast<const float*>(vector_of(op, "scale", scale, ScalarType::Float, m.rows));
  return m;
}

Mlp mlp_of(const char* op, const Tensor& x, const Weights& w, const std::string& activation) {
  Mlp c = {};
  c.dtype = dtype_of(op, "x", x);
  c.up = matrix_of(op, "up", w.up, w.up_scale);
  c.down = matrix_of(op, "down_t", w.down_t, w.down_scale);
  if (w.gate) c.gate = matrix_of(op, "gate", *w.gate, w.gate_scale);
  else SF_REQUIRE(!w.gate_scale && !w.gate_bias, op, "gate_scale and gate_bias need a gate");
  SF_REQUIRE(x.dim() >= 1 && x.size(x.dim() - 1) == c.up.columns, op,
             "x must be [..., " + std::to_string(c.up.columns) + "], got " + shape_of(x));
  for (const Tensor* t : {w.gate ? &*w.gate : &w.up, &w.down_t})
    SF_REQUIRE(t->size(0) == c.up.rows && t->size(1) == c.up.columns && t->scalar_type() == w.up.scalar_type(), op,
               "gate and down_t must be as up, " + described(w.up) + ", got " + described(*t));
  SF_REQUIRE(c.up.stored == Stored::i8 || w.up.scalar_type() == x.scalar_type(), op,
             "x must have the dtype of the weights, " + described(w.up) + ", got " + described(x));
  c.gate_bias = vector_of(op, "gate_bias", w.gate_bias, x.scalar_type(), c.up.rows);
  c.up_bias = vector_of(op, "up_bias", w.up_bias, x.scalar_type(), c.up.rows);
  vector_of(op, "down_bias", w.down_bias, x.scalar_type(), c.up.columns);
  c.activation = neuron_activation_of(op, activation);
  c.squared = c.activation == Activation::relu2;
  if (c.squared) c.activation = Activation::relu;
  return c;
}

Source source_of(const char* op, const Rows& x) {
  return {static_cast<const char*>(x.tensor.const_data_ptr()), dtype_of(op, "x", x.tensor), x.count, x.stride,
          x.tensor.size(x.tensor.dim() - 1)};
}

WideRows::WideRows(int64_t count, int64_t columns)
    : wide_{nullptr, count, pitch_of(columns)}, scratch_(count * wide_.pitch * static_cast<int64_t>(sizeof(float))) {
  wide_.data = reinterpret_cast<float*>(scratch_.data());
}

WideRows::WideRows(const char* op, const Tensor& x) : WideRows(op, rows_of(x)) {}

WideRows::WideRows(const char* op, const Rows& x) : WideRows(source_of(op, x)) {}

WideRows::WideRows(const Source& x) : WideRows(x.count, x.columns) {
  const int64_t bytes = x.stride * (x.dtype == DType::f32 ? 4 : 2);
  for (int64_t m = 0; m < x.count; ++m)
    kernels().widen(x.data + m * bytes, x.dtype, x.columns, wide_.pitch, wide_.data + m * wide_.pitch);
}

Wide WideRows::panel(int64_t first) const {
  return {wide_.data + first * wide_.pitch, std::min(kPanel, wide_.count - first), wide_.pitch};
}

}  // namespace sparseflow::cpu::contextual
