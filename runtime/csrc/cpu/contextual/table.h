// The contextual kernels of one instruction set.
#pragma once

#include "column.h"
#include "every.h"
#include "largest.h"
#include "mlp.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

inline void widen_row(const void* from, DType dtype, int64_t n, int64_t padded, float* to) {
  with_type(dtype, [&](auto d) {
    using D = decltype(d);
    const auto* p = static_cast<const typename D::T*>(from);
    int64_t i = 0;
    for (; i + W <= n; i += W) store(to + i, D::load(p + i));
    for (; i < n; ++i) to[i] = D::get(p + i);
    for (; i < padded; ++i) to[i] = 0;
  });
}

inline void scores(const Matrix& a, const Wide& x, const float* bias, float* out, int64_t pitch, int64_t begin,
                   int64_t end) {
  with_stored(a.stored, [&](auto s) {
    using S = decltype(s);
    // Streams a part of the rows apart: the hardware follows several better than one. A short row is fetched some ahead.
    const int64_t span = (end - begin + kStreams - 1) / kStreams;
    const int64_t ahead = most(1, kAhead / most(1, a.columns * static_cast<int64_t>(sizeof(typename S::T))));
    for (int64_t i = 0; i < span; ++i) {
      const typename S::T *rows[kStreams], *next[kStreams];
      for (int r = 0; r < kStreams; ++r) {
        rows[r] = row_of<S>(a, least(begin + r * span + i, end - 1));
        next[r] = row_of<S>(a, least(begin + r * span + i + ahead, end - 1));
      }
      float dots[kStreams][kPanel];
      const auto streamed = streams<S, kStreams>(rows, next, a.columns);
      if (a.one_stream) dot<fetch_none>(streamed, x, dots);  // 1.05 times as fast there
      else dot(streamed, x, dots);
      for (int64_t row = begin + i, r = 0; row < end; row += span, ++r) {
        const float scale = a.scale ? a.scale[row] : 1.f, added = bias ? bias[row] : 0.f;
        for (int64_t m = 0; m < x.count; ++m) out[m * pitch + row] = dots[r][m] * scale + added;
      }
    }
  });
}

inline void finish_sums(const float* rows, int64_t parts, int64_t stride, const void* bias, DType dtype, int64_t n,
                        void* y) {
  with_type(dtype, [&](auto d) {
    using D = decltype(d);
    using T = typename D::T;
    for (int64_t i = 0; i < n; i += W) {
      const int64_t length = least(W, n - i);
      vf v = load(rows + i);
      for (int64_t p = 1; p < parts; ++p) v += load(rows + p * stride + i);
      const T* b = static_cast<const T*>(bias) + i;
      if (bias) v += length == W ? D::load(b) : load_part<D>(b, length);
      T edge[W];
      D::store(edge, v);
      std::memcpy(static_cast<T*>(y) + i, edge, length * sizeof(T));
    }
  });
}

const contextual::Kernels contextual_kernels = {widen_row, scores, mlp,   finish_sums,  mark_largest,  list_selected,
                                                keep,      column, every, widen_stored, finish_columns};

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
