// A predictor's scores.
#pragma once

#include "operands.h"

namespace sparseflow::cpu::contextual {

struct Predictor {
  Matrix a, b;
  const float* bias;  // or null
};

// Checked against each other and x's `columns`.
Predictor predictor_of(const char* op, int64_t columns, const Tensor& a, const Tensor& b, const Maybe& bias,
                       const Maybe& a_scale, const Maybe& b_scale);

// out [x.count, b.rows] = (x · aᵀ) · bᵀ + bias.
void predict(const Predictor& p, const WideRows& x, float* out);

}  // namespace sparseflow::cpu::contextual
