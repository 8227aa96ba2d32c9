// A tile of x in fp32, [k][m]: one kept value at a time. For every storage type.
#pragma once

#include "transpose.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

template <class D_>
struct Wide {
  using D = D_;
  static constexpr int kStep = 32;     // k that are decoded at once: 4 bytes of positions
  static constexpr int kPerEntry = 2;  // k per entry: a value and the offset of its row in the tile
  static constexpr int tile_bytes(int vectors) { return vectors * W * 4; }  // per k

  static vf add(vf s, uint32_t value, const char* x) {
    return s + splat(bits_to_float(value)) * load(reinterpret_cast<const float*>(x));
  }

  static void convert(const typename D::T* values, uint32_t* v) {
    for (int h = 0; h < 16; h += W) store(reinterpret_cast<float*>(v) + h, D::load(values + h));
  }

  template <int V>
  static void offsets(const uint8_t* positions, uint32_t* offset, uint32_t first) {
    constexpr int kPitch = V * W * 4;
    uint32_t word;
    std::memcpy(&word, positions, 4);
    for (int h = 0; h < 16; h += W) {
      const vu lane = kLane + static_cast<uint32_t>(h);
      *reinterpret_cast<vu_any*>(offset + h) =
          (((vu{} + word) >> lane * 2) & 3) * kPitch + ((lane >> 1) * 4 * kPitch + first);
    }
  }

  // Columns [k, k + W) of W rows of x to the tile; missing rows and columns are zero.
  static void put(const typename D::T* const (&rows)[W], int64_t k, int64_t width, char* tile) {
    vf block[W];
    for (int i = 0; i < W; ++i) block[i] = rows[i] ? D::load(rows[i]) : vf{};
    transpose(block);
    for (int i = 0; i < W; ++i) store(reinterpret_cast<float*>(tile) + (k + i) * width, block[i]);
  }
  static constexpr int kPut = W;  // columns that `put` takes
};

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
