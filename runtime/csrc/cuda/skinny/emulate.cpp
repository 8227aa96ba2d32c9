// Runs the kernel on the host and compares it exactly with a plain product, as the data are small integers. It isn't
// part of the library; test/unit/test_emulated.py builds and runs it.
#include <algorithm>
#include <cstdio>

#include "emulator.h"
//
#include "kernel.cuh"

namespace sparseflow::cuda::skinny {
namespace {

constexpr uint16_t kUntouched = 0x7fff;
constexpr float kScale = 4;  // of e4m3's rows: 1, 4, 16
constexpr size_t kBehind = 64;  // of y, where nothing may be written

float from_e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float magnitude = std::ldexp(static_cast<float>(exponent ? 8 + mantissa : mantissa), std::max(exponent, 1) - 10);
  return bits >> 7 ? -magnitude : magnitude;
}

struct Data {
  int n, k, m;
  std::vector<uint16_t> x, bias, residual, y, norm_weight, norm_x;
  std::vector<float> norm_squares;
  std::vector<uint8_t> values, positions;  // values of 8 or 16 bits
  std::vector<float> dense, scales;

  Data(int n_, int k_, int m_, bool e4m3) : n(n_), k(k_), m(m_), dense(size_t(n_) * k_) {
    const int size = e4m3 ? 1 : 2;
    const Layout layout{n, k, size};
    const auto small = [] { return from_float<Bf16>(static_cast<float>(int(emulated::random_source() % 7) - 3)); };
    values.resize(size_t(n) * k / 2 * size);
    for (int r = 0; e4m3 && r < n; ++r) scales.push_back(std::pow(kScale, static_cast<float>(r % 3)));
    positions.resize(static_cast<size_t>(layout.position_bytes()), 0xee);  // as padding has them
    for (int r = 0; r < n; ++r)
      for (int g = 0; g < k / 4; ++g) {
        static const uint8_t legal[] = {4, 8, 12, 9, 13, 14};
        const uint8_t nibble = legal[emulated::random_source() % 6];
        const int64_t at = layout.nibble(r, g);
        uint8_t& both = positions[static_cast<size_t>(at / 2)];
        both = static_cast<uint8_t>(both & 0xf0 >> at % 2 * 4 | nibble << at % 2 * 4);
        for (int j = 0; j < 2; ++j) {
          const size_t place = size_t(r) * k + 4 * g + (j ? nibble >> 2 : nibble & 3), kept = size_t(r) * k / 2 + 2 * g + j;
          if (e4m3) {
            // 0, ±1, ±1.125 … ±1.875: every bit of the mantissa; their sums of products with small numbers are exact.
            const uint32_t any = emulated::random_source();
            values[kept] = static_cast<uint8_t>(any % 5 ? (any >> 8 & 0x80) | 0x38 | (any >> 20 & 7) : any >> 8 & 0x80);
            dense[place] = from_e4m3(values[kept]) * scales[static_cast<size_t>(r)];
          } else {
            const uint16_t v = small();
            std::memcpy(&values[2 * kept], &v, 2);
            dense[place] = to_float<Bf16>(v);
          }
        }
      }
    x.resize(size_t(m) * k);
    bias.resize(static_cast<size_t>(n));
    residual.resize(size_t(m) * n);
    y.resize(size_t(m) * n + kBehind, kUntouched);
    norm_weight.resize(static_cast<size_t>(n));
    norm_x.resize(size_t(m) * n, kUntouched);
    norm_squares.resize(size_t(m) * n / 8, std::nanf(""));
    for (auto* t : {&x, &bias, &residual, &norm_weight})
      for (auto& v : *t) v = small();
  }

  // What a norm that follows gets, of y as it is stored.
  int wrong_norm() const {
    int count = 0;
    for (size_t i = 0; i < size_t(m) * n; i += 8) {
      float squares = 0;
      for (size_t j = i; j < i + 8; ++j) {
        const float v = to_float<Bf16>(y[j]);
        squares += v * v;
        count += norm_x[j] != from_float<Bf16>(v * to_float<Bf16>(norm_weight[j % n]));
      }
      count += norm_squares[i / 8] != squares;
    }
    return count;
  }

  int wrong(bool added) const {
    int count = static_cast<int>(kBehind - std::count(y.end() - kBehind, y.end(), kUntouched));
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        float sum = 0;
        for (int c = 0; c < k; ++c) sum += to_float<Bf16>(x[size_t(i) * k + c]) * dense[size_t(j) * k + c];
        if (added) sum = std::max(sum + to_float<Bf16>(bias[j]), 0.f) + to_float<Bf16>(residual[size_t(i) * n + j]);
        count += y[size_t(i) * n + j] != from_float<Bf16>(sum);
      }
    return count;
  }
};

int failures = 0;

// Checks a shape with `slots` stages in the ring and `splits` shares of K, added in a cluster or through memory.
template <class S>
void check(int n, int k, int m, int slots, unsigned splits, bool kThroughMemory, bool added) {
  Data d(n, k, m, S::e4m3);
  std::vector<float> partials(kThroughMemory ? splits * size_t(m) * n : 0, std::nanf(""));
  const Product p{.values = d.values.data(),
                  .positions = d.positions.data(),
                  .x = d.x.data(),
                  .bias = added ? d.bias.data() : nullptr,
                  .residual = added ? d.residual.data() : nullptr,
                  .n = n,
                  .k = k,
                  .m = m,
                  .activation = added ? Activation::relu : Activation::none,
                  .e4m3 = S::e4m3,
                  .scales = S::e4m3 ? d.scales.data() : nullptr,
                  .y = d.y.data(),
                  .partials = kThroughMemory ? partials.data() : nullptr,
                  .after = {added ? d.norm_weight.data() : nullptr, d.norm_x.data(), d.norm_squares.data()}};
  const Dim grid{splits, unsigned(n + S::rows - 1) / S::rows, unsigned(m + S::m_rows - 1) / S::m_rows};
  const size_t bytes = std::max(slots * S::stage_bytes, S::sum_bytes);
  const unsigned cluster = kThroughMemory ? 1 : splits;
  bool ran = emulated::launch(grid, S::threads, cluster, bytes, [&] { multiply<Bf16, S>(p, slots); });
  if (ran && kThroughMemory)
    ran = emulated::launch({3, 1, 1}, 1, 1, 0, [&] { finish_partials<Bf16, S::e4m3>(p, static_cast<int>(splits)); });
  const int wrong = ran ? d.wrong(added) + (added ? d.wrong_norm() : 0) : -1;
  std::printf("%s N %d K %d M %d rows %d stages %d splits %u%s%s%s\n", wrong == 0 ? "ok" : "WRONG", n, k, m, S::rows,
              slots, splits, S::e4m3 ? " e4m3" : "", kThroughMemory ? " through memory" : "", added ? " added" : "");
  if (wrong < 0) std::printf("  hangs\n");
  if (wrong > 0) std::printf("  %d of %d are wrong\n", wrong, n * m);
  failures += wrong != 0;
}

// Of e4m3's numbers but NaN, at both halves of a word.
int wrong_numbers() {
  int wrong = 0;
  for (uint32_t bits = 0; bits < 256; ++bits)
    for (const uint32_t selector : {0x9180u, 0xb3a2u}) {
      if ((bits & 0x7f) == 0x7f) continue;
      const uint32_t word = bits | (255 - bits) << 8, pair = widened<Bf16>(selector == 0x9180 ? word : word << 16, selector);
      wrong += to_float<Bf16>(static_cast<uint16_t>(pair)) != from_e4m3(static_cast<uint8_t>(bits));
      if (((255 - bits) & 0x7f) != 0x7f)
        wrong += to_float<Bf16>(static_cast<uint16_t>(pair >> 16)) != from_e4m3(static_cast<uint8_t>(255 - bits));
    }
  std::printf("%s e4m3's numbers in bf16\n", wrong ? "WRONG" : "ok");
  return wrong;
}

int run_all() {
  check<Shape<2, 4, 1, 2, 2, 1>>(128, 64, 1, 2, 1, false, false);
  check<Shape<2, 4, 1, 2, 2, 1>>(192, 1856, 8, 3, 2, false, true);
  check<Shape<2, 4, 1, 2, 2, 1>>(128, 1600, 4, 5, 1, false, true);
  check<Shape<2, 4, 1, 2, 2, 2>>(128, 1088, 11, 3, 4, false, true);
  check<Shape<2, 4, 1, 2, 2, 4>>(64, 832, 32, 4, 2, true, true);
  check<Shape<2, 4, 1, 2, 2, 8>>(128, 768, 65, 3, 1, false, false);
  check<Shape<2, 2, 2, 4, 2, 1>>(128, 2496, 3, 3, 2, false, true);
  check<Shape<2, 2, 2, 4, 2, 4>>(64, 448, 17, 2, 8, false, false);
  check<Shape<2, 2, 2, 4, 2, 8>>(64, 1344, 33, 2, 1, false, false);
  check<Shape<4, 4, 2, 2, 1, 1>>(320, 1216, 5, 4, 2, false, true);
  check<Shape<4, 4, 2, 2, 1, 8>>(256, 704, 64, 4, 1, false, true);
  check<Shape<4, 8, 1, 1, 1, 1>>(576, 512, 2, 6, 1, false, false);
  check<Shape<4, 8, 1, 1, 1, 2>>(512, 640, 16, 4, 2, true, true);
  check<Shape<2, 4, 1, 2, 2, 1>>(8, 192, 3, 2, 1, false, true);  // N is a multiple of 8 only
  check<Shape<2, 4, 1, 2, 2, 2>>(136, 576, 9, 3, 2, true, true);
  check<Shape<2, 2, 2, 4, 2, 4>>(200, 448, 17, 2, 4, false, false);
  check<Shape<4, 4, 2, 2, 1, 8>>(72, 320, 33, 3, 1, false, true);
  check<Shape<4, 8, 1, 1, 1, 1>>(328, 256, 5, 4, 2, false, true);
  check<Shape<2, 4, 1, 2, 2, 1, true>>(128, 64, 1, 2, 1, false, false);
  check<Shape<2, 4, 1, 2, 2, 1, true>>(192, 1856, 8, 3, 2, false, true);
  check<Shape<2, 4, 1, 2, 2, 4, true>>(64, 832, 32, 4, 2, true, true);
  check<Shape<2, 2, 2, 4, 2, 1, true>>(128, 2496, 3, 3, 2, false, true);
  check<Shape<2, 2, 2, 4, 2, 8, true>>(64, 1344, 33, 2, 1, false, false);
  check<Shape<4, 4, 2, 2, 1, 8, true>>(256, 704, 64, 4, 1, false, true);
  check<Shape<4, 8, 1, 1, 1, 2, true>>(512, 640, 16, 4, 2, true, true);
  check<Shape<4, 8, 1, 1, 1, 1, true>>(328, 256, 5, 4, 2, false, true);
  failures += wrong_numbers();
  return failures;
}

}  // namespace
}  // namespace sparseflow::cuda::skinny

int main() { return sparseflow::cuda::skinny::run_all(); }
