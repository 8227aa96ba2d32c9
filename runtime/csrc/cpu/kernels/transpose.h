// Square transposes in registers.
#pragma once

#include "vec.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

inline vf zip_low(vf a, vf b) {
  vi at;
  for (int i = 0; i < W; ++i) at[i] = i % 2 * W + i / 2;
  return __builtin_shuffle(a, b, at);
}

inline vf zip_high(vf a, vf b) {
  vi at;
  for (int i = 0; i < W; ++i) at[i] = i % 2 * W + W / 2 + i / 2;
  return __builtin_shuffle(a, b, at);
}

// A perfect shuffle of rows, log2(W) times, is the transpose.
inline void transpose(vf (&rows)[W]) {
  for (int stage = 1; stage < W; stage *= 2) {
    vf next[W];
    for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = zip_low(rows[i], rows[i + W / 2]);
      next[2 * i + 1] = zip_high(rows[i], rows[i + W / 2]);
    }
    for (int i = 0; i < W; ++i) rows[i] = next[i];
  }
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
