// Activations of vectors of fp32, with the same limits and NaNs as torch's formulas.
#pragma once

#include "vec.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

// e^x, within 2 units in the last place, from x = n ln 2 + r and the Taylor series of e^r for |r| <= ln 2 / 2.
inline vf exp(vf x) {
  x = x > 89.f ? splat(89.f) : x;  // comparisons instead of min and max, so that NaN is kept
  x = x < -104.f ? splat(-104.f) : x;
  const vf magic = splat(12582912.f);  // adding 1.5 * 2^23 rounds to an integer in the low bits
  const vf shifted = x * 1.44269504f + magic;
  const vf n = shifted - magic;
  const vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  vf p = splat(1.f / 5040);
  constexpr float kSeries[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, .5f, 1.f, 1.f};
  for (float c : kSeries) p = p * r + c;
  // 2^n in two factors: n reaches 128 and, for subnormal results, -150.
  const vi whole = reinterpret_cast<vi>(shifted) - reinterpret_cast<vi>(magic);
  const vi half = whole >> 1;
  return p * reinterpret_cast<vf>((half + 127) << 23) * reinterpret_cast<vf>((whole - half + 127) << 23);
}

// erfc(a), a >= 0, as e^(-a²) · t Q(t) with t = 1 / (1 + 0.38 a): the form of Abramowitz & Stegun 7.1.26.
// Q is a least-squares fit, reweighted to minimax, of the relative error over a in [0, 12]: 2e-8.
inline vf erfc_positive(vf a) {
  const vf t = 1.f / (1.f + 0.38f * a);
  constexpr float kFit[] = {-0.262692869f, 0.364749610f, -0.162524149f, 0.230799732f,
                            0.138300762f,  0.204001725f, 0.213905066f,  0.214411870f};
  vf q = splat(0.059048306f);
  for (float c : kFit) q = q * t + c;
  return exp(-a * a) * q * t;
}

inline vf gelu(vf v) {
  const vf magnitude = bits_to_float(float_to_bits(v) & 0x7fffffff);
  const vf tail = 0.5f * erfc_positive(magnitude * 0.70710678f);
  return v * (v < 0.f ? tail : 1.f - tail);
}

// 1 + tanh(u) = 2 sigmoid(2u).
inline vf gelu_tanh(vf v) { return v / (1.f + exp(-1.59576912f * (v + 0.044715f * v * v * v))); }

inline vf activate(vf v, Activation a) {
  switch (a) {
    case Activation::relu: return v < 0.f ? vf{} : v;
    case Activation::gelu: return gelu(v);
    case Activation::gelu_tanh: return gelu_tanh(v);
    case Activation::silu: return v / (1.f + exp(-v));
    default: return v;
  }
}

// act(sum + bias) + residual of a vector; either may be missing.
template <class D>
inline vf finished(const Linear& a, vf sum, const typename D::T* bias, const typename D::T* residual) {
  if (bias) sum += D::load(bias);
  sum = activate(sum, a.activation);
  return residual ? sum + D::load(residual) : sum;
}

// Applies the epilogue to `n` sums of one row of y, from column `column` on. `sum` must be readable up to a whole
// vector.
template <class D>
inline void finish_row(const Linear& a, const float* sum, int64_t row, int64_t column, int64_t n) {
  using T = typename D::T;
  const T* bias = static_cast<const T*>(a.bias);
  const T* residual = static_cast<const T*>(a.residual);
  T* y = static_cast<T*>(a.y) + row * a.n + column;
  if (bias) bias += column;
  if (residual) residual += row * a.n + column;
  int64_t i = 0;
  for (; i + W <= n; i += W)
    D::store(y + i, finished<D>(a, load(sum + i), bias ? bias + i : nullptr, residual ? residual + i : nullptr));
  if (i == n) return;
  // The last, partial vector. Clearing this in the loop took more time than all of the rest.
  T edge[3][W] = {};
  const size_t bytes = (n - i) * sizeof(T);
  if (bias) std::memcpy(edge[0], bias + i, bytes);
  if (residual) std::memcpy(edge[1], residual + i, bytes);
  D::store(edge[2], finished<D>(a, load(sum + i), bias ? edge[0] : nullptr, residual ? edge[1] : nullptr));
  std::memcpy(y + i, edge[2], bytes);
}

// Rows [begin, end) of y [m, n/2] = act(g) ⊙ u, for the halves g and u of the rows of a.y [m, n].
template <class D>
void gate_rows(const Linear& a, void* gated, int64_t begin, int64_t end) {
  using T = typename D::T;
  const int64_t half = a.n / 2;
  for (int64_t m = begin; m < end; ++m)
    for (int64_t i = 0; i < half; i += W) {
      const T* gate = static_cast<const T*>(a.y) + m * a.n + i;
      const T* up = gate + half;
      T* y = static_cast<T*>(gated) + m * half + i;
      const int64_t len = least(W, half - i);
      if (len == W) {
        D::store(y, activate(D::load(gate), a.activation) * D::load(up));
        continue;
      }
      T edge[2][W] = {};
      std::memcpy(edge[0], gate, len * sizeof(T));
      std::memcpy(edge[1], up, len * sizeof(T));
      D::store(edge[0], activate(D::load(edge[0]), a.activation) * D::load(edge[1]));
      std::memcpy(y, edge[0], len * sizeof(T));
    }
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
