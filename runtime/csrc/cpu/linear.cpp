// Reference implementations of the CPU operators: plain C++, one row at a time.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

int64_t groups_of(int64_t k) { return (k + 3) / 4; }

template <class F>
auto dispatch(ScalarType t, const F& f) {
  switch (t) {
    case ScalarType::Float: return f(float{});
    case ScalarType::BFloat16: return f(torch::headeronly::BFloat16{});
    case ScalarType::Half: return f(torch::headeronly::Half{});
    default: throw std::runtime_error("sparseflow: dtype must be float32, bfloat16 or float16");
  }
}

Tensor like(const Tensor& t, std::vector<int64_t> size, ScalarType dtype) {
  return torch::stable::new_empty(t, size, dtype);
}

template <class T>
std::pair<int, int> largest_two(const T* w, int64_t n) {
  int a = 0, b = 1;  // places of the two largest magnitudes; earlier place wins a tie
  float v[4];
  for (int i = 0; i < 4; ++i) v[i] = i < n ? std::fabs(static_cast<float>(w[i])) : -1.f;
  if (v[b] > v[a]) std::swap(a, b);
  for (int i = 2; i < 4; ++i) {
    if (v[i] > v[a]) { b = a; a = i; }
    else if (v[i] > v[b]) b = i;
  }
  return {std::min(a, b), std::max(a, b)};
}

Tensor prune_2_4(const Tensor& w) {
  const int64_t n = w.size(0), k = w.size(1);
  Tensor out = like(w, {n, k}, w.scalar_type());
  dispatch(w.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* src = static_cast<const T*>(w.data_ptr());
    T* dst = static_cast<T*>(out.data_ptr());
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < k; c += 4) {
        const int64_t len = std::min<int64_t>(4, k - c);
        auto [a, b] = largest_two(src + r * k + c, len);
        for (int64_t i = 0; i < len; ++i) dst[r * k + c + i] = (i == a || i == b) ? src[r * k + c + i] : T(0);
      }
    return 0;
  });
  return out;
}

std::tuple<Tensor, Tensor> pack_2_4(const Tensor& w) {
  const int64_t n = w.size(0), k = w.size(1), g = groups_of(k), pb = (g + 1) / 2;
  Tensor values = like(w, {n, 2 * g}, w.scalar_type());
  Tensor positions = like(w, {n, pb}, ScalarType::Byte);
  dispatch(w.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* src = static_cast<const T*>(w.data_ptr());
    T* val = static_cast<T*>(values.data_ptr());
    auto* pos = static_cast<uint8_t*>(positions.data_ptr());
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < 2 * pb; ++c) {
        int a = 0, b = 1;
        if (c < g) {
          const int64_t len = std::min<int64_t>(4, k - 4 * c);
          std::tie(a, b) = largest_two(src + r * k + 4 * c, len);
          for (int j = 0; j < 2; ++j) {
            const int p = j ? b : a;
            const T v = p < len ? src[r * k + 4 * c + p] : T(0);
            val[r * 2 * g + 2 * c + j] = static_cast<float>(v) == 0.f ? T(0) : v;
          }
        }
        const uint8_t nibble = static_cast<uint8_t>(a | b << 2);
        uint8_t& byte = pos[r * pb + c / 2];
        byte = c % 2 ? static_cast<uint8_t>(byte | nibble << 4) : nibble;
      }
    return 0;
  });
  return {values, positions};
}

Tensor unpack_2_4(const Tensor& values, const Tensor& positions, int64_t k) {
  const int64_t n = values.size(0), g = values.size(1) / 2, pb = positions.size(1);
  Tensor out = like(values, {n, k}, values.scalar_type());
  dispatch(values.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* val = static_cast<const T*>(values.data_ptr());
    const auto* pos = static_cast<const uint8_t*>(positions.data_ptr());
    T* dst = static_cast<T*>(out.data_ptr());
    std::fill(dst, dst + n * k, T(0));
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < g; ++c) {
        const int nibble = pos[r * pb + c / 2] >> (c % 2 * 4) & 15;
        for (int j = 0; j < 2; ++j) {
          const int64_t at = 4 * c + (nibble >> 2 * j & 3);
          if (at < k) dst[r * k + at] = val[r * 2 * g + 2 * c + j];
        }
      }
    return 0;
  });
  return out;
}

float activate(float v, const std::string& e) {
  if (e == "none") return v;
  if (e == "relu") return v < 0 ? 0 : v;
  if (e == "silu") return v / (1 + std::exp(-v));
  if (e == "gelu") return 0.5f * v * (1 + std::erf(v * 0.70710678f));
  if (e == "gelu_tanh") return 0.5f * v * (1 + std::tanh(0.79788456f * (v + 0.044715f * v * v * v)));
  throw std::runtime_error("sparseflow.linear: unknown epilogue '" + e + "'");
}

Tensor linear(
    const Tensor& x_, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
    std::optional<Tensor> residual, int64_t k, std::string epilogue, std::vector<int64_t>) {
  Tensor x = torch::stable::contiguous(x_);
  const int64_t n = values.size(0), g = values.size(1) / 2, pb = positions.size(1);
  std::vector<int64_t> size;
  int64_t m = 1;
  for (int64_t d = 0; d + 1 < x.dim(); ++d) { size.push_back(x.size(d)); m *= x.size(d); }
  size.push_back(n);
  Tensor out = like(x, size, x.scalar_type());
  std::optional<Tensor> res;
  if (residual) res = torch::stable::contiguous(*residual);
  dispatch(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* xs = static_cast<const T*>(x.data_ptr());
    const T* val = static_cast<const T*>(values.data_ptr());
    const auto* pos = static_cast<const uint8_t*>(positions.data_ptr());
    const T* b = bias ? static_cast<const T*>(bias->data_ptr()) : nullptr;
    const T* rs = res ? static_cast<const T*>(res->data_ptr()) : nullptr;
    T* y = static_cast<T*>(out.data_ptr());
    torch::stable::parallel_for(0, n, 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t i = 0; i < m; ++i) {
          float sum = 0;
          for (int64_t c = 0; c < g; ++c) {
            const int nibble = pos[r * pb + c / 2] >> (c % 2 * 4) & 15;
            for (int j = 0; j < 2; ++j) {
              const int64_t at = 4 * c + (nibble >> 2 * j & 3);
              if (at < k) sum += static_cast<float>(val[r * 2 * g + 2 * c + j]) * static_cast<float>(xs[i * k + at]);
            }
          }
          sum = activate(sum + (b ? static_cast<float>(b[r]) : 0.f), epilogue);
          y[i * n + r] = T(sum + (rs ? static_cast<float>(rs[i * n + r]) : 0.f));
        }
    });
    return 0;
  });
  return out;
}

std::string cpu_isa() { return "plain"; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CPU, m) {
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("prune_2_4", TORCH_BOX(&prune_2_4));
  m.impl("pack_2_4", TORCH_BOX(&pack_2_4));
  m.impl("unpack_2_4", TORCH_BOX(&unpack_2_4));
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) { m.impl("cpu_isa", TORCH_BOX(&cpu_isa)); }
