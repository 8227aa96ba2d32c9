// A predictor's scores.
#pragma once

#include "operands.h"

namespace sparseflow::cpu::contextual {

struct Predictor {
  Matrix a, b;
  const float* bias;  // or null
};

// Checks a predictor's tensors against each other and the `columns` of x.
Predictor predictor_of(const char* op, int64_t columns, const Tensor& a, const Tensor& b, const Maybe& bias,
                       const Maybe& a_scale, const Maybe& b_scale);

// out [x.count, b.rows] = (x · aᵀ) · bᵀ + bias.
void predict(const Predictor& p, const WideRows& x, float* out);

}  // namespace sparseflow::cpu::contextual
