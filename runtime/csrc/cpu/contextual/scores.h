// A predictor's scores.
#pragma once

#include "operands.h"

namespace sparseflow::cpu::contextual {

struct Predictor {
  Matrix a, b;
  const float* bias;  // or null
};

// out[m, r] = x[m] · matrix[r] + bias[r], `pitch` floats from one m to the next; bias may be null. Panels of x in turn,
// the threads sharing the rows of the matrix.
void multiply(const Matrix& matrix, const WideRows& x, const float* bias, float* out, int64_t pitch);

// Checked against each other and x's `columns`.
Predictor predictor_of(const char* op, int64_t columns, const Tensor& a, const Tensor& b, const Maybe& bias,
                       const Maybe& a_scale, const Maybe& b_scale);

// out [x.count, b.rows] = (x · aᵀ) · bᵀ + bias.
void predict(const Predictor& p, const WideRows& x, float* out);

}  // namespace sparseflow::cpu::contextual
