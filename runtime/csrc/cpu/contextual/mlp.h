// The MLP over a list of neurons, which is bound by memory. The rows of gate and up are read in place, then those of
// down; each unit of four rows prefetches the beginning of the next.
#pragma once

#include "../kernels/epilogue.h"
#include "rows.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

using contextual::kBatch;
using contextual::kPanel;
using contextual::Matrix;
using contextual::Mlp;
using contextual::Wide;

template <class S>
inline const typename S::T* row_of(const Matrix& m, int64_t row) {
  return static_cast<const typename S::T*>(m.data) + row * m.columns;
}

// The rows of a batch of neurons in the order of reading, R at once, and the first R of the next batch. Past the last
// neuron, the last one repeats.
template <class S, bool kGated, int R>
struct Batch {
  static constexpr int kDots = kGated ? 2 : 1;
  const typename S::T* rows[(kDots + 1) * kBatch + R];
  int32_t neuron[kBatch];

  Batch(const Mlp& c, const int32_t* neurons, int64_t first, int64_t count) {
    for (int i = 0; i < kBatch + R / kDots; ++i) {
      const int32_t n = neurons[least(first + i, count - 1)];
      const typename S::T** dots = rows + kDots * i + (i < kBatch ? 0 : kBatch);
      if constexpr (kGated) dots[0] = row_of<S>(c.gate, n);
      dots[kDots - 1] = row_of<S>(c.up, n);
      if (i < kBatch) rows[kDots * kBatch + i] = row_of<S>(c.down, n), neuron[i] = n;
    }
  }
};

template <class S, int R>
inline Streams<S, R> streams(const typename S::T* const* rows, const typename S::T* const* next, int64_t columns) {
  Streams<S, R> s = {};
  s.columns = columns;
  for (int r = 0; r < R; ++r) {
    s.row[r] = rows[r];
    s.next[r] = next[r];
  }
  return s;
}

inline float bias_at(const void* bias, DType dtype, int64_t i) {
  if (!bias) return 0;
  return with_type(dtype, [&](auto d) { return decltype(d)::get(static_cast<const typename decltype(d)::T*>(bias) + i); });
}

// Applies scale and bias to `product`, the neuron's row times x.
inline vf finished(vf product, const Matrix& m, const void* bias, DType dtype, int64_t neuron) {
  if (m.scale) product *= m.scale[neuron];
  return bias ? product + bias_at(bias, dtype, neuron) : product;
}

// Computes factors[i][m], by which the row of down of neuron i is multiplied for x[m].
template <bool kGated>
inline void factors_of(const Mlp& c, const int32_t* neuron, const float (*dots)[kPanel], int64_t rows,
                       float (&factors)[kBatch][kPanel]) {
  for (int i = 0; i < kBatch; ++i)
    for (int64_t m = 0; m < rows; m += W) {
      const float* first = dots[kGated ? 2 * i : i];
      vf v = kGated ? finished(load(first + m), c.gate, c.gate_bias, c.dtype, neuron[i])
                    : finished(load(first + m), c.up, c.up_bias, c.dtype, neuron[i]);
      v = activate(v, c.activation);
      if (c.squared) v *= v;
      if constexpr (kGated) v *= finished(load(first + kPanel + m), c.up, c.up_bias, c.dtype, neuron[i]);
      if (c.down.scale) v *= c.down.scale[neuron[i]];
      store(factors[i] + m, v);
    }
}

template <class S, int R, bool kGated>
void mlp_over(const Mlp& c, const Wide& x, const int32_t* neurons, int64_t count, const Wide& sums) {
  using B = Batch<S, kGated, R>;
  const int64_t columns = c.up.columns;
  constexpr int kDots = B::kDots * kBatch;
  for (int64_t i = 0; i < count; i += kBatch) {
    const B batch(c, neurons, i, count);
    float dots[kDots][kPanel], factors[kBatch][kPanel];
    for (int r = 0; r < kDots; r += R)
      dot(streams<S, R>(batch.rows + r, batch.rows + r + R, columns), x, dots + r);
    factors_of<kGated>(c, batch.neuron, dots, x.count, factors);
    const auto* down = batch.rows + kDots;
    if (i + kBatch <= count)
      for (int r = 0; r < kBatch; r += R)
        spread(streams<S, R>(down + r, down + r + R, columns), factors + r, sums);
    else  // a repeated row must not be added again, not even times zero, as it may hold Inf
      for (int64_t r = 0; r < count - i; ++r) spread(streams<S, 1>(down + r, down + r, columns), factors + r, sums);
  }
}

template <class S, int R>
void mlp_with(const Mlp& c, const Wide& x, const int32_t* neurons, int64_t count, const Wide& sums) {
  if (c.gate.data) mlp_over<S, R, true>(c, x, neurons, count, sums);
  else mlp_over<S, R, false>(c, x, neurons, count, sums);
}

inline void mlp(const Mlp& c, const Wide& x, const int32_t* neurons, int64_t count, const Wide& sums) {
  with_stored(c.up.stored, [&](auto s) {
    using S = decltype(s);
    if (x.count <= kTogether<kMany>) mlp_with<S, kMany>(c, x, neurons, count, sums);
    else mlp_with<S, kStreams>(c, x, neurons, count, sums);
  });
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
