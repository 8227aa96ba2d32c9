// Runs the kernels on the host and compares them with plain loops. The data are small integers, so that sums are exact
// in any order. It isn't part of the library; test/unit/test_emulated.py builds and runs it.
#include <cstdio>
#include <numeric>
#include <utility>

#include "emulator.h"
//
#include "mlp.cuh"
#include "project.cuh"
#include "select.cuh"

namespace sparseflow::cuda::contextual {
namespace {

constexpr float kUntouched = -12345;
int failures = 0;

int small() { return static_cast<int>(emulated::random_source() % 3) - 1; }

void say(bool ran, int wrong, const std::string& what) {
  std::printf("%s %s\n", ran && !wrong ? "ok" : "WRONG", what.c_str());
  if (!ran) std::printf("  hangs\n");
  if (wrong) std::printf("  %d are wrong\n", wrong);
  failures += !ran || wrong;
}

// A tensor of elements T, and its values in float.
template <class T>
struct Data {
  std::vector<float> wide;
  std::vector<uint8_t> bytes;

  explicit Data(size_t size) : wide(size), bytes(size * bytes_of<T> + 16) {
    for (auto& v : wide) v = static_cast<float>(small());
    for (size_t i = 0; i < size; ++i) put(i, wide[i]);
  }

  void* start() { return bytes.data() + (16 - reinterpret_cast<uintptr_t>(bytes.data()) % 16) % 16; }

  void put(size_t i, float v) {
    wide[i] = v;
    if constexpr (std::is_same_v<T, int8_t>) static_cast<int8_t*>(start())[i] = static_cast<int8_t>(v);
    else store<T>(start(), static_cast<int64_t>(i), v);
  }
};

std::vector<int32_t> some_of(int neurons, int count) {
  std::vector<int32_t> list(static_cast<size_t>(neurons));
  std::iota(list.begin(), list.end(), 0);
  std::shuffle(list.begin(), list.end(), emulated::random_source);
  std::sort(list.begin(), list.begin() + count);
  std::fill(list.begin() + count, list.end(), 1 << 30);  // must not be read
  return list;
}

template <class W, class X, int Rows, bool Wide>
void check_mlp(int m, int hidden, int neurons, int count, bool gated, bool per_row, int splits, Activation act,
               bool marked = false) {
  const size_t size = size_t(neurons) * hidden;
  Data<W> gate(size), up(size), down(size);
  Data<X> x(size_t(m) * hidden), up_bias(neurons), down_bias(hidden), y(size_t(m) * hidden);
  std::vector<float> scale(static_cast<size_t>(neurons)), h(size_t(m) * neurons, kUntouched);
  for (auto& v : scale) v = static_cast<float>(1 << emulated::random_source() % 2);
  const int lists = per_row ? m : 1;
  std::vector<int32_t> list, counts;
  for (int i = 0; i < lists; ++i) {
    counts.push_back(std::max(0, count - 3 * i));
    const auto one = some_of(neurons, counts.back());
    list.insert(list.end(), one.begin(), one.end());
  }
  std::vector<uint32_t> marks(size_t(words_for(neurons)));
  for (int j = 0; j < counts[0]; ++j) marks[list[j] / 32] |= 1u << list[j] % 32;
  std::vector<float> partials(size_t(splits) * m * hidden, std::nanf(""));
  std::vector<uint32_t> tickets(size_t(lists) * strips(hidden), 77);
  constexpr bool scaled = std::is_same_v<W, int8_t>;
  Mlp p{};
  p.x = x.start(), p.gate = gated ? gate.start() : nullptr, p.up = up.start(), p.down = down.start();
  p.gate_scale = p.up_scale = p.down_scale = scaled ? scale.data() : nullptr;
  p.up_bias = up_bias.start(), p.down_bias = down_bias.start();
  if (marked) p.marks = marks.data();
  else p.neurons = list.data(), p.count = counts.data();
  p.m = m, p.hidden = hidden, p.intermediate = neurons, p.per_row = per_row, p.activation = act, p.splits = splits;
  p.h = h.data(), p.partials = partials.data(), p.tickets = tickets.data(), p.y = y.start();
  bool ran = emulated::launch({2, unsigned(lists)}, kUpThreads, 1, 0, [&] { gate_and_up<W, X, Rows, Wide>(p); });
  ran = ran && emulated::launch({unsigned(strips(hidden)), unsigned(splits), unsigned(lists)}, kDownThreads, 1, 0,
                                [&] { sum_of_down<W, X, Rows, Wide>(p); });
  int wrong = 0;
  for (int i = 0; i < m; ++i) {
    std::vector<float> sum = down_bias.wide;
    const int which = per_row ? i : 0;
    for (int j = 0; j < counts[which]; ++j) {
      const size_t n = list[size_t(which) * neurons + j];
      float g = 0, u = 0;
      for (int k = 0; k < hidden; ++k) {
        g += x.wide[size_t(i) * hidden + k] * gate.wide[n * hidden + k];
        u += x.wide[size_t(i) * hidden + k] * up.wide[n * hidden + k];
      }
      const float s = scaled ? scale[n] : 1;
      u = u * s + up_bias.wide[n];
      const auto relu = [](float v) { return v < 0 ? 0 : v; };
      float v = gated ? relu(g * s) : relu(u);
      if (act == Activation::relu2) v *= v;
      if (gated) v *= u;
      for (int k = 0; k < hidden; ++k) sum[k] += v * s * down.wide[n * hidden + k];
    }
    for (int k = 0; k < hidden; ++k) {
      float expected = sum[k];
      if constexpr (std::is_same_v<X, Bf16>) expected = skinny::to_float<Bf16>(skinny::from_float<Bf16>(expected));
      wrong += element<X>(p.y, int64_t(i) * hidden + k) != expected;
    }
  }
  char what[200];
  std::snprintf(what, sizeof what, "mlp bytes %d %d M %d by %d H %d I %d of them %d%s%s splits %d%s%s", bytes_of<W>,
                bytes_of<X>, m, Rows, hidden, neurons, count, gated ? " gated" : "", per_row ? " per row" : "", splits,
                Wide ? "" : " narrow", marked ? " marked" : "");
  say(ran, wrong, what);
}

template <class W, class X, int Lanes, int Rows, bool Wide>
void check_projection(int m, int n, int k) {
  Data<W> weight(size_t(n) * k);
  Data<X> x(size_t(m) * k);
  std::vector<float> scale(static_cast<size_t>(n)), bias(static_cast<size_t>(n)), out(size_t(m) * n + 1, kUntouched);
  for (auto& v : scale) v = static_cast<float>(1 << emulated::random_source() % 3);
  for (auto& v : bias) v = static_cast<float>(small());
  const Projection p{x.start(), weight.start(), scale.data(), bias.data(), m, n, k, Wide, true, out.data()};
  const unsigned each = kProjectThreads / Lanes;
  const bool ran = emulated::launch({(n + each - 1) / each}, kProjectThreads, 1, 0,
                                    [&] { multiply<W, X, Lanes, Rows, Wide>(p); });
  int wrong = out.back() != kUntouched;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      float sum = 0;
      for (int c = 0; c < k; ++c) sum += x.wide[size_t(i) * k + c] * weight.wide[size_t(j) * k + c];
      wrong += out[size_t(i) * n + j] != sum * scale[j] + bias[j];
    }
  char what[200];
  std::snprintf(what, sizeof what, "projection bytes %d %d lanes %d M %d by %d N %d K %d%s", bytes_of<W>, bytes_of<X>,
                Lanes, m, Rows, n, k, Wide ? "" : " narrow");
  say(ran, wrong, what);
}

template <class W, bool Wide>
void check_marks(int m, int n, int k) {
  Data<W> weight(size_t(n) * k);
  Data<float> x(size_t(m) * k);
  if (n > 3) weight.put(size_t(3) * k, 0), x.put(0, std::nanf(""));  // a NaN marks every neuron of row 0
  std::vector<uint32_t> marks(size_t(words_for(n)) + 1, 0xaaaaaaaa);
  Projection p{x.start(), weight.start(), nullptr, nullptr, m, n, k, Wide, true, nullptr, marks.data(), 2};
  const unsigned each = kProjectThreads / 8;
  int wrong = 0;
  bool ran = true;
  for (bool odd : {true, false}) {
    if (!odd) x.put(0, 1);
    ran = ran && emulated::launch({(n + each - 1) / each}, kProjectThreads, 1, 0,
                                  [&] { multiply<W, float, 8, 1, Wide>(p); });
    for (int j = 0; j < 32 * words_for(n); ++j) {
      bool chosen = false;
      for (int i = 0; i < m && j < n; ++i) {
        float sum = 0;
        for (int c = 0; c < k; ++c) sum += x.wide[size_t(i) * k + c] * weight.wide[size_t(j) * k + c];
        chosen = chosen || !(sum <= 2);
      }
      wrong += (marks[j / 32] >> j % 32 & 1) != chosen;
    }
  }
  wrong += marks.back() != 0xaaaaaaaa;
  say(ran, wrong, "marks M " + std::to_string(m) + " N " + std::to_string(n) + " K " + std::to_string(k));
}

std::vector<bool> expected_row(const float* scores, int neurons, Rule rule, float parameter) {
  std::vector<bool> chosen(static_cast<size_t>(neurons));
  double limit = parameter;
  if (rule == Rule::statistical) {
    double mean = 0, variance = 0;
    for (int i = 0; i < neurons; ++i) mean += scores[i] / double(neurons);
    for (int i = 0; i < neurons; ++i) variance += (scores[i] - mean) * (scores[i] - mean) / neurons;
    limit = mean + parameter * std::sqrt(variance);
  }
  for (int i = 0; i < neurons; ++i) chosen[i] = rule == Rule::top_k ? isnan(scores[i]) : !(scores[i] <= limit);
  if (rule != Rule::top_k) return chosen;
  std::vector<int> order(static_cast<size_t>(neurons));
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&](int i) { return isnan(scores[i]) ? INFINITY : scores[i]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return value(a) > value(b); });
  for (int i = 0; i < std::min(neurons, static_cast<int>(parameter)); ++i) chosen[order[i]] = true;
  return chosen;
}

void check_selection(int m, int neurons, Rule rule, float parameter, bool per_row, bool odd) {
  std::vector<float> scores(size_t(m) * neurons);
  for (auto& v : scores) v = static_cast<float>(int(emulated::random_source() % 41) - 20) / 4;
  if (odd)
    for (int i = 0; i < 5; ++i)
      for (float v : {std::nanf(""), INFINITY, -INFINITY, -0.f, 1e-40f})
        scores[emulated::random_source() % scores.size()] = v;
  const int lists = per_row ? m : 1, count = words_for(neurons);
  std::vector<uint32_t> bits(size_t(m) * count, 0xaaaaaaaa);
  std::vector<int32_t> list(size_t(lists) * neurons, -7), counts(size_t(lists), -7);
  const Selection p{scores.data(), m, neurons, rule, parameter, per_row, bits.data(), list.data(), counts.data()};
  bool ran = m == 0 || emulated::launch({unsigned(m)}, kSelectThreads, 1, 0, [&] { select_rows(p); });
  if (!per_row && m != 1) ran = ran && emulated::launch({1}, kSelectThreads, 1, 0, [&] { unite(p); });
  int wrong = 0;
  for (int l = 0; l < lists; ++l) {
    std::vector<bool> all(static_cast<size_t>(neurons));
    for (int i = per_row ? l : 0; i < (per_row ? l + 1 : m); ++i) {
      const auto row = expected_row(scores.data() + size_t(i) * neurons, neurons, rule, parameter);
      for (int n = 0; n < neurons; ++n) all[n] = all[n] || row[n];
    }
    int at = 0;
    for (int n = 0; n < neurons; ++n)
      if (all[n]) wrong += list[size_t(l) * neurons + at++] != n;
    wrong += counts[l] != at;
    for (; at < neurons; ++at) wrong += list[size_t(l) * neurons + at] != 0;
  }
  char what[200];
  std::snprintf(what, sizeof what, "selection M %d I %d rule %d parameter %g%s%s", m, neurons, static_cast<int>(rule),
                parameter, per_row ? " per row" : "", odd ? " odd" : "");
  say(ran, wrong, what);
}

int run_all() {
  using enum Activation;
  check_mlp<Bf16, Bf16, 1, true>(1, 264, 100, 37, true, false, 2, relu);
  check_mlp<Bf16, Bf16, 1, true>(1, 1400, 90, 90, true, false, 3, relu);
  check_mlp<Bf16, Bf16, 1, true>(1, 264, 40, 0, true, false, 2, relu);
  check_mlp<Bf16, Bf16, 4, true>(6, 72, 80, 70, true, false, 4, relu);
  check_mlp<Bf16, Bf16, 1, true>(3, 72, 80, 70, true, true, 3, relu);
  check_mlp<float, float, 1, true>(2, 64, 50, 49, false, false, 1, relu2);
  check_mlp<float, float, 1, false>(1, 35, 50, 20, false, false, 2, relu2);
  check_mlp<int8_t, float, 4, true>(5, 264, 40, 33, true, false, 2, relu);
  check_mlp<int8_t, Bf16, 1, false>(2, 13, 40, 33, true, false, 2, relu);
  check_mlp<Bf16, Bf16, 1, false>(1, 301, 40, 33, true, false, 2, relu);
  check_mlp<Bf16, Bf16, 1, true>(1, 264, 100, 37, true, false, 2, relu, true);
  check_mlp<Bf16, Bf16, 1, true>(1, 72, 1500, 1400, true, false, 2, relu, true);
  check_mlp<Bf16, Bf16, 4, true>(6, 72, 5000, 4000, true, false, 4, relu, true);
  check_mlp<float, float, 1, false>(1, 35, 33, 33, false, false, 2, relu2, true);
  check_mlp<Bf16, Bf16, 1, true>(1, 72, 40, 0, true, false, 2, relu, true);
  for (int n : {1, 16, 17, 33, 300}) {
    check_marks<Bf16, true>(1, n, 72);
    check_marks<int8_t, false>(3, n, 13);
  }
  check_projection<Bf16, Bf16, 128, 1, true>(1, 7, 5200);
  check_projection<Bf16, Bf16, 128, 4, true>(5, 7, 264);
  check_projection<Bf16, float, 8, 1, true>(1, 37, 72);
  check_projection<int8_t, float, 8, 4, true>(6, 37, 400);
  check_projection<float, float, 8, 1, false>(2, 17, 71);
  for (bool odd : {false, true})
    for (bool per_row : {false, true})
      for (int m : {0, 1, 3}) {
        if (m == 0 && odd) continue;
        check_selection(m, 1100, Rule::threshold, 3, per_row, odd);
        for (float k : {0, 1, 77, 1099, 1100, 5000}) check_selection(m, 1100, Rule::top_k, k, per_row, odd);
        check_selection(m, 1100, Rule::statistical, 0.7f, per_row, odd);
      }
  check_selection(2, 33000, Rule::top_k, 20000, false, true);
  check_selection(1, 1, Rule::top_k, 1, false, false);
  check_selection(1, 31, Rule::threshold, -9, false, false);
  return failures;
}

}  // namespace
}  // namespace sparseflow::cuda::contextual

int main() { return sparseflow::cuda::contextual::run_all(); }
