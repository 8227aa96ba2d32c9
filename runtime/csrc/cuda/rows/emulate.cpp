// Runs the kernels that hold rows on the host and compares them with plain loops in double precision. It isn't part of the
// library; test/unit/test_emulated.py builds and runs it.
#include <cstdio>
#include <string>

#include "emulator.h"
//
#include "normed.cuh"
#include "requantize.cuh"

namespace sparseflow::cuda::rows {
namespace {

constexpr uint16_t kUnwritten = 0x7fc1;  // NaN
int failures = 0;

float drawn() { return std::normal_distribution<float>()(emulated::random_source); }

// Numbers in bf16, from a multiple of 16 bytes on, and their values.
struct Numbers {
  std::vector<float> wide;
  std::vector<uint16_t> bits;

  Numbers(int64_t size, float mean, float deviation) : wide(static_cast<size_t>(size)), bits(wide.size() + 8, kUnwritten) {
    for (size_t i = 0; i < wide.size(); ++i) put(i, mean + deviation * drawn());
  }
  void put(size_t i, float v) {
    start()[i] = skinny::from_float<Bf16>(v);
    wide[i] = at(static_cast<int64_t>(i));
  }
  uint16_t* start() { return bits.data() + (16 - reinterpret_cast<uintptr_t>(bits.data()) % 16) % 16 / 2; }
  float at(int64_t i) { return skinny::to_float<Bf16>(start()[i]); }
};

// Factors in float, from a multiple of 16 bytes on; all are positive.
struct Factors {
  std::vector<float> values;

  explicit Factors(int64_t size) : values(static_cast<size_t>(size) + 4) {
    for (auto& v : values) v = 0.1f + std::fabs(drawn());
  }
  float* start() { return values.data() + (16 - reinterpret_cast<uintptr_t>(values.data()) % 16) % 16 / 4; }
};

// Rows in e4m3 with their scales, as a kernel writes them.
struct InE4m3 {
  int64_t k;
  std::vector<uint64_t> bytes;
  std::vector<float> scales;

  InE4m3(int64_t m, int64_t k) : k(k), bytes(static_cast<size_t>(m * k / 8), ~0ull), scales(static_cast<size_t>(m), NAN) {}

  double at(int64_t row, int64_t i) const {
    const uint16_t byte = reinterpret_cast<const uint8_t*>(bytes.data())[row * k + i];
    return double(contextual::widen_e4m3(byte).x) * scales[row];
  }
  // How far a row is from what it should be, in units of what e4m3 may lose.
  double lost(int64_t row, const std::vector<double>& exact) const {
    double largest = 0, worst = 0;
    for (const double v : exact) largest = std::max(largest, std::fabs(v));
    worst = std::fabs(largest / 448 / scales[row] - 1) / 5e-3;
    for (int64_t i = 0; i < k; ++i) {
      const double allowed = std::fabs(exact[i]) / 12 + largest / 448 / 500;
      worst = std::max(worst, std::fabs(at(row, i) - exact[i]) / allowed);
    }
    return std::isnan(scales[row]) ? INFINITY : worst;
  }
};

void say(bool ran, double worst, const std::string& what) {
  const bool right = ran && worst <= 1;
  std::printf("%s %s\n", right ? "ok" : "WRONG", what.c_str());
  if (!ran) std::printf("  hangs\n");
  if (!right) std::printf("  %g times what may be lost\n", worst);
  failures += !right;
}

// What there is around a norm.
struct Parts {
  bool added, scaled, gated, affine, modulated;
};

template <int Held, bool Quantizes>
void check_norm(int64_t m, int64_t k, int64_t tokens, Parts parts, int64_t rows = 4) {
  const int64_t batches = (m + tokens - 1) / tokens;
  Numbers x(m * k, 0.5f, 1), y(m * k, 0, 3), y_bias(k, 0, 1), gate(batches * k, 1, 0.5f), weight(k, 1, 0.3f), bias(k, 0, 1);
  Numbers factor(batches * k, 1, 0.3f), shift(batches * k, 0, 1), sum(m * k, NAN, 0), out(m * k, NAN, 0);
  Factors y_scale(m), w_scale(k);
  InE4m3 quantized(m, k);
  NormedRows p{};
  p.m = m, p.k = k, p.tokens = tokens, p.eps = 1e-6f, p.x = x.start();
  if (parts.added) p.y = y.start(), p.y_bias = y_bias.start(), p.sum = sum.start();
  if (parts.scaled) p.y_scale = y_scale.start(), p.w_scale = w_scale.start();
  if (parts.gated) p.gate = {gate.start(), k};
  if (parts.affine) p.weight = weight.start(), p.bias = bias.start();
  if (parts.modulated) p.factor = {factor.start(), k}, p.shift = {shift.start(), k};
  p.out = Quantizes ? static_cast<void*>(quantized.bytes.data()) : out.start();
  p.scale = Quantizes ? quantized.scales.data() : nullptr;
  const unsigned threads = (k / 8 + Held * 32 - 1) / (Held * 32) * 32, blocks = (m + rows - 1) / rows;
  blockDim = {threads};
  const bool ran = emulated::launch({blocks}, threads, 1, 0, [&] { norm_held<Held, Quantizes>(p, rows); });

  double worst = 0;
  for (int64_t row = 0; row < m; ++row) {
    std::vector<double> v(static_cast<size_t>(k));
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < k; ++i) {
      const int64_t at = row * k + i, of_batch = row / tokens * k + i;
      v[i] = x.wide[at];
      if (parts.added) {
        double product = y.wide[at];
        if (parts.scaled) product *= double(w_scale.start()[i]) * y_scale.start()[row];
        product += y_bias.wide[i];
        v[i] += parts.gated ? product * gate.wide[of_batch] : product;
        worst = std::max(worst, std::fabs(sum.at(at) - v[i]) / (std::fabs(v[i]) / 250 + 1e-5));
        v[i] = sum.at(at);  // of the stream as it is stored
      }
      mean += v[i] / k;
    }
    for (const double one : v) variance += (one - mean) * (one - mean) / k;
    for (int64_t i = 0; i < k; ++i) {
      const int64_t of_batch = row / tokens * k + i;
      v[i] = (v[i] - mean) / std::sqrt(variance + 1e-6);
      if (parts.affine) v[i] = v[i] * weight.wide[i] + bias.wide[i];
      if (parts.modulated) v[i] = v[i] * factor.wide[of_batch] + shift.wide[of_batch];
      if (!Quantizes) worst = std::max(worst, std::fabs(out.at(row * k + i) - v[i]) / (std::fabs(v[i]) / 250 + 1e-4));
    }
    if (Quantizes) worst = std::max(worst, quantized.lost(row, v));
  }
  const std::string flags{char('0' + parts.added), char('0' + parts.scaled), char('0' + parts.gated), char('0' + parts.affine),
                          char('0' + parts.modulated)};
  say(ran, std::isnan(worst) ? INFINITY : worst,
      "norm of " + std::to_string(m) + " rows of " + std::to_string(k) + (Quantizes ? " in e4m3, parts " : ", parts ") + flags);
}

double gelu_tanh(double v) { return v / 2 * (1 + std::tanh(0.7978845608 * (v + 0.044715 * v * v * v))); }
double silu(double v) { return v / (1 + std::exp(-v)); }

template <int Held, bool Scaled, bool Gated>
void check_requantize(int64_t m, int64_t row, Activation activation, double (*exact)(double)) {
  const int64_t n = Gated ? 2 * row : row;
  Numbers product(m * n, 0, 2), bias(n, 0, 1);
  Factors x_scale(m), w_scale(n);
  InE4m3 quantized(m, row);
  const Requantized p{m,     n,          product.start(),        Scaled ? x_scale.start() : nullptr, Scaled ? w_scale.start() : nullptr,
                      Scaled ? bias.start() : nullptr, false, activation, Gated, quantized.bytes.data(), quantized.scales.data()};
  const Quantized to{row, p.y8, p.y_scale};
  const bool ran = emulated::launch({unsigned(m)}, kThreads, 1, 0, [&] {
    if constexpr (Gated) quantize_held<Bf16, Held>(Gate<Bf16, Scaled>{{p}}, to);
    else quantize_held<Bf16, Held>(Activated<Bf16, Scaled>{{p}}, to);
  });
  double worst = 0;
  const auto end = [&](int64_t at, int64_t i) {
    double v = product.wide[at * n + i];
    return Scaled ? v * w_scale.start()[i] * x_scale.start()[at] + bias.wide[i] : v;
  };
  for (int64_t at = 0; at < m; ++at) {
    std::vector<double> v(static_cast<size_t>(row));
    for (int64_t i = 0; i < row; ++i) v[i] = exact(end(at, i)) * (Gated ? end(at, row + i) : 1);
    worst = std::max(worst, quantized.lost(at, v));
  }
  say(ran, worst, std::to_string(m) + " rows of " + std::to_string(row) + (Gated ? " by a gate" : "") + (Scaled ? ", scaled here" : ""));
}

void check_norms() {
  constexpr Parts all{1, 1, 1, 1, 1}, diffusion{1, 1, 1, 0, 1}, plain{0, 0, 0, 1, 0}, bare{0, 0, 0, 0, 0}, in_16_bits{1, 0, 1, 0, 1};
  for (const int64_t k : {8, 1000, 1152, 3072, 4096}) {
    check_norm<1, true>(13, k, 5, diffusion), check_norm<1, false>(13, k, 5, in_16_bits, 7);
    check_norm<1, true>(3, k, 3, plain, 1), check_norm<1, false>(3, k, 3, bare);
    check_norm<1, true>(9, k, 9, all), check_norm<1, false>(9, k, 2, all, 9);
  }
  check_norm<2, true>(9, 5120, 5, diffusion), check_norm<2, false>(5, 4104, 2, all);
  check_norm<2, true>(5, 8192, 2, diffusion), check_norm<2, false>(5, 8192, 5, plain, 1);
}

void check_rows() {
  check_requantize<2, true, false>(5, 4096, Activation::gelu_tanh, gelu_tanh);
  check_requantize<2, false, false>(3, 1000, Activation::none, [](double v) { return v; });
  check_requantize<4, true, true>(3, 4608, Activation::silu, silu);
  check_requantize<8, false, true>(2, 12288, Activation::silu, silu);
  check_requantize<8, true, false>(2, 16384, Activation::gelu_tanh, gelu_tanh);
}

}  // namespace
}  // namespace sparseflow::cuda::rows

int main() {
  sparseflow::cuda::rows::check_norms();
  sparseflow::cuda::rows::check_rows();
  return sparseflow::cuda::rows::failures != 0;
}
