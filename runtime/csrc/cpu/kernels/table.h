// The kernels of one instruction set, and the choice of the kernel for a call.
#pragma once

#include "attention.h"
#include "layout.h"
#include "skinny.h"
#include "skinny_across.h"
#include "skinny_blocks.h"
#include "skinny_dot.h"
#include "skinny_gather.h"
#include "skinny_spread.h"
#include "tile.h"
#include "tile_amx.h"
#include "tile_pairs.h"
#include "tile_wide.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

// The bytes of transposed x in a panel; without panels it could outgrow the caches and memory.
constexpr int64_t kPanelBytes = 16 << 20;

inline int64_t panel(const Linear& a) {
#if defined(__AMX_BF16__)
  const int64_t rows = a.dtype == DType::f16 ? 256 : 512;  // fp16 becomes twice as many tiles
#else
  constexpr int64_t rows = 512;
#endif
  const int64_t fit = kPanelBytes / (round_up(most(a.k, 1), 64) * 4) / (kMaxVectors * W) * (kMaxVectors * W);
  return most(kMaxVectors * W, least(fit, rows));
}

template <class D>
struct Choice {
  using Skinny = Lanes<D>;
  using Tiles = Wide<D>;
};
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
template <>
struct Choice<BF16> {
  using Skinny = Dot;
  using Tiles = Pairs;
};
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
template <>
struct Choice<BF16> {
  using Skinny = Spread<BF16>;
  using Tiles = Wide<BF16>;
};
template <>
struct Choice<F16> {
  using Skinny = Spread<F16>;
  using Tiles = Wide<F16>;
};
#endif

inline void plan(const Linear& a, int threads, Plan& p) {
  with_type(a.dtype, [&](auto d) {
    using C = Choice<decltype(d)>;
    if (a.block == 6) return plan_blocks<decltype(d), 6>(a, threads, p);
    if (a.block == 8) return plan_blocks<decltype(d), 8>(a, threads, p);
#if defined(__AMX_BF16__)
    if constexpr (!__is_same(decltype(d), F32))
      if (a.m > Bf16Parts<decltype(d)>::kFew) return plan_amx<decltype(d)>(a, threads, p);
#endif
#if defined(__AVX2__) && !defined(__AVX512F__)
    if constexpr (__is_same(decltype(d), F32)) {
      if (a.m > C::Skinny::kFew && a.m <= kAcrossTo) return plan_across(a, threads, p);
    } else if (a.m <= Gather<decltype(d)>::kFew) {
      return plan_skinny<Gather<decltype(d)>>(a, threads, p);
    }
#endif
    if (a.m <= C::Skinny::kFew) plan_skinny<typename C::Skinny>(a, threads, p);
    else plan_tiles<typename C::Tiles>(a, threads, p);
  });
}

// Computes y = act(y + bias) + residual in place, for rows [begin, end).
template <class D>
void finish_in_place(const Linear& a, int64_t begin, int64_t end) {
  constexpr int64_t kPart = 512;
  alignas(64) float sums[kPart];
  for (int64_t m = begin; m < end; ++m)
    for (int64_t n = 0; n < a.n; n += kPart) {
      const int64_t length = least(kPart, a.n - n);
      const auto* y = static_cast<const typename D::T*>(a.y) + m * a.n + n;
      for (int64_t i = 0; i < length; ++i) sums[i] = D::get(y + i);
      finish_row<D>(a, sums, m, n, length);
    }
}

inline void finish(const Linear& a, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto d) { finish_in_place<decltype(d)>(a, begin, end); });
}

inline void gate(const Linear& a, void* y, int64_t begin, int64_t end) {
  with_type(a.dtype, [&](auto d) { gate_rows<decltype(d)>(a, y, begin, end); });
}

template <class F>
inline auto with_bits(const Weight& w, const F& f) {
  return w.element_size == 4 ? f(uint32_t{}) : f(uint16_t{});
}

inline void prune(const Weight& w, void* out, int64_t begin, int64_t end) {
  with_bits(w, [&](auto t) {
    if (w.block == 6) prune_blocks<6, decltype(t)>(w, out, begin, end);
    else if (w.block == 8) prune_blocks<8, decltype(t)>(w, out, begin, end);
    else prune_rows<decltype(t)>(w, out, begin, end);
  });
}

inline void pack(const Weight& w, void* values, uint8_t* positions, int64_t begin, int64_t end) {
  with_bits(w, [&](auto t) {
    if (w.block == 6) pack_blocks<6, decltype(t)>(w, values, positions, begin, end);
    else if (w.block == 8) pack_blocks<8, decltype(t)>(w, values, positions, begin, end);
    else pack_rows<decltype(t)>(w, values, positions, begin, end);
  });
}

inline void unpack(const void* values, const uint8_t* positions, const Weight& w, void* dst, int64_t begin,
                   int64_t end) {
  with_bits(w, [&](auto t) {
    if (w.block == 6) unpack_blocks<6, decltype(t)>(values, positions, w, dst, begin, end);
    else if (w.block == 8) unpack_blocks<8, decltype(t)>(values, positions, w, dst, begin, end);
    else unpack_rows<decltype(t)>(values, positions, w, dst, begin, end);
  });
}

inline int64_t row_not_2_4(const Weight& w, int64_t row) {
  return with_bits(w, [&](auto t) { return not_2_4<decltype(t)>(w, row); });
}

inline int64_t row_not_finite(const Weight& w, DType dtype, int64_t row) {
  if (dtype == DType::f32) return not_finite<uint32_t>(w, 0x7f800000, row);
  return not_finite<uint16_t>(w, dtype == DType::bf16 ? 0x7f80 : 0x7c00, row);
}

const Kernels kernels = {panel,  plan,        finish,         gate,         prune,  pack,
                         unpack, row_not_2_4, row_not_finite, attend_bytes, attend, join};

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
