// Runs the kernel of column.cuh on the host and compares it with plain loops. The data are small integers, so that sums
// are exact in any order. It isn't part of the library; test/unit/test_emulated.py builds and runs it.
#include <cstdio>

#include "emulator.h"
//
#include "column.cuh"

namespace sparseflow::cuda::contextual {
namespace {

int failures = 0;

int small() { return static_cast<int>(emulated::random_source() % 3) - 1; }

// 16-bit numbers from a multiple of 16 bytes on, and their values.
struct Numbers {
  std::vector<float> wide;
  std::vector<uint16_t> bits;
  size_t shift;

  explicit Numbers(size_t size) : wide(size), bits(size + 8) {
    shift = (16 - reinterpret_cast<uintptr_t>(bits.data()) % 16) % 16 / 2;
    for (size_t i = 0; i < size; ++i) put(i, static_cast<float>(small()));
  }
  void put(size_t i, float v) { wide[i] = v, bits[shift + i] = skinny::from_float<Bf16>(v); }
  uint16_t* start() { return bits.data() + shift; }
};

// Bytes of a weight from a multiple of 16 bytes on, and their values: whole numbers, or e4m3, subnormal ones among them.
template <class W>
struct ByteNumbers {
  std::vector<float> wide;
  std::vector<uint8_t> bytes;
  size_t shift;

  explicit ByteNumbers(size_t size) : wide(size), bytes(size + 16) {
    constexpr std::pair<float, uint8_t> e4m3[] = {{0, 0}, {1, 0x38}, {-1, 0xb8}, {0x1p-9f, 1}, {-0x3p-9f, 0x83}, {16, 0x58}};
    shift = (16 - reinterpret_cast<uintptr_t>(bytes.data()) % 16) % 16;
    for (size_t i = 0; i < size; ++i) {
      const auto drawn = emulated::random_source();
      const auto whole = static_cast<int8_t>(drawn % 255 - 127);
      if (std::is_same_v<W, E4m3>) wide[i] = e4m3[drawn % 6].first, bytes[shift + i] = e4m3[drawn % 6].second;
      else wide[i] = whole, bytes[shift + i] = static_cast<uint8_t>(whole);
    }
  }
  uint8_t* start() { return bytes.data() + shift; }
};

// What follows the product.
enum class Ending { nothing, bias_and_residual, relu_and_residual, relu_gate };

template <class W, int Rows, bool Cluster>
void check(int m, int k, int n, float share, unsigned shares, Ending ending) {
  const bool gated = ending == Ending::relu_gate, residual_too = !gated && ending != Ending::nothing;
  const int pieces = (k + 7) / 8, pitch = pieces * 8, out = gated ? n / 2 : n;
  const auto tiles = static_cast<unsigned>((out + (gated ? kTile / 2 : kTile) - 1) / (gated ? kTile / 2 : kTile));
  std::conditional_t<kInBytes<W>, ByteNumbers<W>, Numbers> weight(size_t(k) * n);
  std::vector<float> scale(n);
  for (float& v : scale) v = emulated::random_source() % 2 ? 0.5f : 2;
  Numbers x(size_t(m) * pitch), bias(n), residual(size_t(m) * out), y(size_t(m) * out);
  const float threshold = share == 0 ? 0 : 0.5f;
  for (size_t i = 0; i < x.wide.size(); ++i)
    x.put(i, float(emulated::random_source() % 1000) < 1000 * share ? 0.25f : small() < 0 ? -1.f : 2.f);
  Columns p{x.start(), weight.start(), kInBytes<W> ? scale.data() : nullptr, ending != Ending::nothing ? bias.start() : nullptr,
            residual_too ? residual.start() : nullptr, y.start()};
  p.limit = skinny::from_float<Bf16>(threshold) * 0x10001u, p.m = m, p.k = k, p.n = n, p.pieces = pieces;
  p.gated = gated;
  p.activation = ending == Ending::relu_and_residual || gated ? Activation::relu : Activation::none;
  std::vector<float> partials(size_t(shares) * tiles * Rows * kTile, std::nanf(""));
  std::vector<uint64_t> counters(tiles, 77);
  p.partials = partials.data(), p.counters = counters.data(), p.tag = 0x1234567890abcd00;
  bool ran = true;
  int wrong = 0;
  for (int turn = 0; turn < 2 && ran; ++turn) {  // the second finds the counters as the first left them
    for (size_t i = 0; i < y.wide.size(); ++i) y.put(i, -12345);
    ran = emulated::launch({shares, tiles}, kColumnThreads, Cluster ? shares : 1, kColumnBytes<Rows>,
                           [&] { multiply_columns<Bf16, W, Rows, Cluster>(p); });
    const auto product = [&](int i, int j) {
      float sum = 0;
      for (int c = 0; c < k; ++c)
        if (const float v = x.wide[size_t(i) * pitch + c]; !(std::fabs(v) < threshold))
          sum += v * weight.wide[size_t(c) * n + j];
      if (kInBytes<W>) sum *= scale[j];
      return p.bias ? sum + bias.wide[j] : sum;
    };
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < out; ++j) {
        float expected = product(i, j);
        if (p.activation == Activation::relu) expected = max(expected, 0.f);
        if (gated) expected *= product(i, out + j);
        if (p.residual) expected += residual.wide[size_t(i) * out + j];
        wrong += y.start()[size_t(i) * out + j] != skinny::from_float<Bf16>(expected);
      }
  }
  constexpr const char* kEndings[] = {"", " and bias, residual", " and bias, relu, residual", " and bias, gate"};
  char what[200];
  std::snprintf(what, sizeof what, "columns%s M %d by %d K %d N %d left out %g, %u shares %s%s",
                std::is_same_v<W, E4m3> ? " e4m3" : kInBytes<W> ? " int8" : "", m, Rows, k, n, share, shares, Cluster ? "in a cluster" : "in memory", kEndings[int(ending)]);
  std::printf("%s %s\n", ran && !wrong ? "ok" : "WRONG", what);
  if (!ran) std::printf("  hangs\n");
  if (wrong) std::printf("  %d are wrong\n", wrong);
  failures += !ran || wrong;
}

template <class W>
void check_all(float share) {
  check<W, 1, true>(1, 256, 264, share, 4, Ending::bias_and_residual);
  check<W, 1, false>(1, 99, 520, share, 3, Ending::relu_and_residual);
  check<W, 4, true>(3, 200, 328, share, 2, Ending::nothing);
  check<W, 2, false>(2, 123, 264, share, 2, Ending::bias_and_residual);
  check<W, 1, true>(1, 96, 272, share, 4, Ending::relu_gate);
  check<W, 2, false>(2, 50, 400, share, 3, Ending::relu_gate);
}

int run_all() {
  for (float share : {0.f, 0.4f, 0.97f, 1.f}) check_all<Bf16>(share);
  for (float share : {0.f, 0.4f}) check_all<int8_t>(share), check_all<E4m3>(share);
  check<Bf16, 1, false>(1, 611, 272, 0.4f, 3, Ending::relu_gate);
  check<Bf16, 2, false>(2, 411, 264, 0.4f, 4, Ending::bias_and_residual);
  check<Bf16, 4, false>(3, 2070, 16, 0.4f, 2, Ending::nothing);  // more than one list
  check<Bf16, 1, false>(1, 40, 24, 0.4f, 8, Ending::nothing);    // blocks without an input
  check<Bf16, 1, true>(1, 9001, 8, 0.4f, 2, Ending::nothing);
  check<Bf16, 1, true>(1, 8, 1000, 0.4f, 1, Ending::nothing);
  check<Bf16, 1, true>(1, 40, 16, 0.4f, 8, Ending::relu_gate);
  return failures;
}

}  // namespace
}  // namespace sparseflow::cuda::contextual

int main() { return sparseflow::cuda::contextual::run_all(); }
