// A tile of x in fp32, [k][m], with one kept value in an entry; for every storage type.
#pragma once

#include "transpose.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

template <class D_>
struct Wide {
  using D = D_;
  static constexpr int kStep = 32;     // k that are converted at once
  static constexpr int kPerEntry = 2;  // k per entry
  static constexpr int kPerByte = 4;   // entries per byte of positions
  static constexpr int tile_bytes(int vectors) { return vectors * W * 4; }  // per k

  static vf add(vf s, uint32_t value, const char* x) {
    return s + splat(bits_to_float(value)) * load(reinterpret_cast<const float*>(x));
  }

  static void convert(const typename D::T* values, uint32_t* v) {
    for (int h = 0; h < 16; h += W) store(reinterpret_cast<float*>(v) + h, D::load(values + h));
  }

  // Returns which of eight rows of the tile is multiplied with entry `e` of a byte of positions.
  static constexpr int place(int byte, int e) { return e / 2 * 4 + (byte >> 2 * e & 3); }

  // Copies columns [k, k + W) of W rows of x to the tile; missing rows and columns become zeros.
  static void put(const typename D::T* const (&rows)[W], int64_t k, int64_t width, char* tile) {
    vf block[W];
    for (int i = 0; i < W; ++i) block[i] = rows[i] ? D::load(rows[i]) : vf{};
    transpose(block);
    for (int i = 0; i < W; ++i) store(reinterpret_cast<float*>(tile) + (k + i) * width, block[i]);
  }
  static constexpr int kPut = W;  // columns that `put` takes
};

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
