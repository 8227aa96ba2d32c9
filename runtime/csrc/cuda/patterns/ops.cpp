// Weights that keep all but two of each 6 or 8 columns, on CUDA: their layout and their products.
//
// On CUDA `values` [N, W] are the tiles of tile.h (N equal shares of their bytes, row by row), and `positions` the 1-d
// rest of the same buffer, which is empty where N is a multiple of 64. In the portable form `positions` has two
// dimensions; weights of float32 stay in it.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../driver.h"
#include "../ending.h"
#include "../multiply.h"
#include "common/choice.h"
#include "common/epilogue.h"
#include "common/registered.h"
#include "cpu/args.h"
#include "decode.h"
#include "tiles.h"

namespace sparseflow::cuda::patterns {
namespace {

constexpr int64_t kLargest = INT32_MAX / 2;
constexpr int64_t kDefault = -1;  // the default variant

const uint8_t* bytes_of(const Tensor& t) { return static_cast<const uint8_t*>(t.const_data_ptr()); }

struct Weight {
  const Tensor& values;
  const Tensor& positions;
  int64_t k;
  int block;

  int64_t n() const { return values.size(0); }
  int device() const { return values.get_device_index(); }
  Extent extent() const { return {n(), k, block}; }
  bool tiled() const { return positions.dim() == 1; }
  int64_t width() const { return extent().units() * extent().tile_bytes() / 128; }

  void check(const char* op) const {
    SF_REQUIRE(values.is_cuda() && positions.is_cuda() && positions.get_device_index() == device(), op,
               "values and positions must be on one CUDA device, got " + words(values) + " and " + words(positions));
    if (!tiled()) return cpu::check_packed(op, values, positions, k, block);
    const Extent e = extent();
    SF_REQUIRE(k >= 0 && values.dim() == 2 && values.element_size() == 2 && values.size(1) == width() &&
                   values.is_contiguous() && positions.scalar_type() == ScalarType::Byte && positions.is_contiguous() &&
                   positions.numel() == e.bytes() - n() * width() * 2,
               op,
               "in_features " + std::to_string(k) + " needs the tiles of a weight, values [N, " + std::to_string(width()) +
                   "] of 16 bits and the rest of their buffer, got " + words(values) + " and " + words(positions) +
                   "; sparseflow::pattern_tiles(values, positions, in_features, block) makes them");
  }

  // Whether the tiles lie in one buffer, aligned as the kernel reads them.
  bool whole() const {
    const bool joined = positions.numel() == 0 || bytes_of(values) + n() * width() * 2 == bytes_of(positions);
    return joined && reinterpret_cast<uintptr_t>(values.const_data_ptr()) % 16 == 0;
  }
};

// The buffer of the tiles, copied together if its parts were.
Tensor buffer_of(const Weight& w) {
  const Tensor values = torch::stable::view(call_aten("aten::view", "dtype", w.values, ScalarType::Byte), {w.n() * w.width() * 2});
  if (w.positions.numel() == 0) return values;
  Tensor out = torch::stable::new_empty(w.positions, {w.extent().bytes()});
  Tensor head = torch::stable::narrow(out, 0, 0, values.numel());
  Tensor tail = torch::stable::narrow(out, 0, values.numel(), w.positions.numel());
  torch::stable::copy_(head, values);
  torch::stable::copy_(tail, w.positions);
  return out;
}

// Calls what(tiles) with the tiles in one buffer.
template <class F>
void with_tiles(const Weight& w, F what) {
  if (w.whole()) return what(bytes_of(w.values));
  const Tensor joined = buffer_of(w);
  what(bytes_of(joined));
}

// Returns the buffer of a weight in the portable form, converted to tiles.
Tensor pattern_tiles(const Tensor& values, const Tensor& positions, int64_t in_features, int64_t block) {
  constexpr const char* op = "pattern_tiles";
  const Tensor v = torch::stable::contiguous(values), p = torch::stable::contiguous(positions);
  const Weight w{v, p, in_features, static_cast<int>(block)};
  cpu::check_packed(op, v, p, in_features, block);
  SF_REQUIRE(block != 4 && v.is_cuda() && v.element_size() == 2, op,
             "blocks of 6 or 8 columns in bfloat16 or float16 on CUDA have tiles, got " + words(v));
  w.check(op);
  const OnDevice guard(w.device());
  Tensor out = torch::stable::new_empty(p, {w.extent().bytes()});
  if (out.numel() > 0)
    to_tiles(w.extent(), static_cast<const uint16_t*>(v.const_data_ptr()), bytes_of(p),
             static_cast<uint8_t*>(out.mutable_data_ptr()), stream_of(w.device()));
  return out;
}

Weight checked_tiles(const char* op, const Tensor& values, const Tensor& positions, int64_t in_features, int64_t block) {
  const Weight w{values, positions, in_features, static_cast<int>(block)};
  SF_REQUIRE(block == 6 || block == 8, op, "block must be 6 or 8, got " + std::to_string(block));
  SF_REQUIRE(w.tiled(), op, "positions must be those of tiles, got " + words(positions));
  w.check(op);
  return w;
}

// Returns values and codes in the portable form.
std::tuple<Tensor, Tensor> pattern_portable(const Tensor& values, const Tensor& positions, int64_t in_features, int64_t block) {
  const Weight w = checked_tiles("pattern_portable", values, positions, in_features, block);
  const OnDevice guard(w.device());
  const cpu::PackedRow row = cpu::packed_row(in_features, block);
  Tensor v = torch::stable::new_empty(values, {w.n(), row.kept}), p = torch::stable::new_empty(positions, {w.n(), row.bytes});
  if (v.numel() > 0)
    with_tiles(w, [&](const uint8_t* tiles) {
      to_portable(w.extent(), tiles, static_cast<uint16_t*>(v.mutable_data_ptr()),
                  static_cast<uint8_t*>(p.mutable_data_ptr()), stream_of(w.device()));
    });
  return {v, p};
}

Tensor dense_of(const Weight& w) {
  if (!w.tiled()) return call_aten("sparseflow::unpack_blocks", "", w.values, w.positions, w.k, int64_t(w.block));
  Tensor out = torch::stable::new_empty(w.values, {w.n(), w.k});
  if (out.numel() > 0)
    with_tiles(w, [&](const uint8_t* tiles) {
      to_dense(w.extent(), tiles, static_cast<uint16_t*>(out.mutable_data_ptr()), stream_of(w.device()));
    });
  return out;
}

Tensor pattern_dense(const Tensor& values, const Tensor& positions, int64_t in_features, int64_t block) {
  const Weight w = checked_tiles("pattern_dense", values, positions, in_features, block);
  const OnDevice guard(w.device());
  return dense_of(w);
}

// The checked arguments of a product.
struct Call {
  Weight weight;
  Tensor x;  // [..., K], contiguous
  std::optional<Tensor> bias, residual;
  int64_t m;

  Call(const char* op, const Tensor& x_, const Weight& w, const std::optional<Tensor>& bias_, const std::optional<Tensor>& residual_)
      : weight(w), x(x_), bias(bias_), residual(residual_), m(1) {
    w.check(op);
    const ScalarType dtype = w.values.scalar_type();
    const int64_t dim = x.dim();
    if (dim < 1 || x.size(dim - 1) != w.k || x.scalar_type() != dtype || !x.is_cuda() || x.get_device_index() != w.device())
      refuse(op, "x must be " + std::string(torch::headeronly::toString(dtype)) + " [..., " + std::to_string(w.k) +
                     "] on the weight's device, got " + words(x));
    if (bias) check_tensor(op, "bias", *bias, dtype, {w.n()}, w.device());
    if (residual) check_tensor(op, "residual", *residual, dtype, sizes_with_last(x, w.n()), w.device());
    for (int64_t d = 0; d + 1 < dim; ++d) m *= x.size(d);
  }
};

Product sizes_of(const Weight& w, int64_t m, bool gated) {
  Product p{};
  p.n = static_cast<int>((w.n() + 7) / 8 * 8);
  p.k = static_cast<int>((w.k + 7) / 8 * 8);
  p.m = static_cast<int>(m);
  p.gated = gated;
  return p;
}

// Why the kernel for few rows doesn't take m rows of x in this variant, or "".
std::string refused(const Weight& w, int64_t m, int64_t variant, bool gated) {
  if (!w.tiled()) return "takes tiles, not the portable form, in which weights of float32 and of builds without nvcc are";
  if (!w.whole()) return "takes tiles that lie in one buffer, aligned to 16 bytes";
  if (w.k == 0) return "takes no weights without columns";
  if (w.n() > kLargest || w.k > kLargest || m > kLargest) return "takes sizes up to " + std::to_string(kLargest);
  if (gated && w.n() % 128) return "needs N to be a multiple of 128 for a gate, got N=" + std::to_string(w.n());
  if (variant < kDefault || variant >= kVariants) return "has no variant " + std::to_string(variant);
  const Product sizes = sizes_of(w, m, gated);
  return refusal(variant == kDefault ? default_variant(sizes, w.block, w.device()) : static_cast<int>(variant), sizes,
                 w.block, w.device());
}

const void* pointer(const std::optional<Tensor>& t) { return t ? t->const_data_ptr() : nullptr; }

// y of a call that refused() takes, of at least one row.
Tensor product(const Call& c, Activation activation, int64_t variant, bool gated) {
  const Weight& w = c.weight;
  Product p = sizes_of(w, c.m, gated);
  const int64_t out = gated ? w.n() / 2 : w.n(), padded_out = gated ? out : p.n;
  const std::vector<int64_t> sizes = sizes_with_last(c.x, out);
  const Tensor x = padded(usable(c.x), c.m, w.k, c.m, p.k);
  std::optional<Tensor> bias, residual;
  if (c.bias) bias = padded(usable(*c.bias), 1, w.n(), 1, p.n);
  if (c.residual) residual = padded(usable(*c.residual), c.m, w.n(), c.m, p.n);
  Tensor y = torch::stable::new_empty(c.x, out == padded_out ? sizes : std::vector<int64_t>{c.m, padded_out});
  const int chosen = variant == kDefault ? default_variant(p, w.block, w.device()) : static_cast<int>(variant);
  std::optional<Tensor> scratch;
  if (const int64_t bytes = scratch_bytes(chosen, p, w.block, w.device())) scratch = torch::stable::new_empty(c.x, {bytes}, ScalarType::Byte);
  p.values = w.values.const_data_ptr();
  p.x = x.const_data_ptr();
  p.bias = pointer(bias);
  p.residual = pointer(residual);
  p.activation = activation;
  p.y = y.mutable_data_ptr();
  p.partials = scratch ? static_cast<float*>(scratch->mutable_data_ptr()) : nullptr;
  run(chosen, p, w.block, c.x.scalar_type() == ScalarType::Half, w.device(), stream_of(w.device()));
  return out == padded_out ? y : cropped(y, c.m, out, sizes);
}

Tensor dense_product(const Call& c, Activation activation, const std::optional<Tensor>& dense) {
  const Tensor weight = dense ? *dense : dense_of(c.weight);
  return added(activated(call_aten("aten::linear", "", c.x, weight, c.bias), activation), c.residual);
}

// What runs a product: the kernel for few rows, or, for a reason, the dense product.
struct Route {
  bool sparse, gate_inside;
  int64_t variant;
  std::string why;
};

Route route_of(const Weight& w, int64_t m, const Choice& choice, bool gated) {
  if (choice.kernel == Kernel::dense) return {false, false, 0, "the policy says so"};
  const int64_t variant = choice.kernel == Kernel::tiles ? choice.algorithm : kDefault;
  // The variant that is best without a gate may have strips of too few rows for one.
  for (const int64_t v : {variant, kDefault})
    if (gated && refused(w, m, v, true).empty()) return {true, true, v, ""};
  std::string why = refused(w, m, variant, false);
  if (!why.empty()) return {false, false, 0, "the kernel for few rows " + std::move(why)};
  return {true, false, variant, ""};
}

template <int Block>
Tensor linear(const Tensor& x, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
              std::optional<Tensor> residual, int64_t in_features, std::string epilogue, std::vector<int64_t> policy,
              std::optional<Tensor> dense) {
  constexpr const char* op = Block == 6 ? "linear_4_6" : "linear_6_8";
  const Call c(op, x, {values, positions, in_features, Block}, bias, residual);
  const int64_t n = c.weight.n();
  if (dense) check_tensor(op, "dense", *dense, values.scalar_type(), {n, in_features}, c.weight.device());
  const Epilogue ending = epilogue_of(op, epilogue, n, residual.has_value());
  const Choice choice = choice_for(op, policy, c.m, Device::cuda);
  if (c.m == 0 || n == 0) return torch::stable::new_empty(x, sizes_with_last(x, ending.gated ? n / 2 : n));
  if (choice.kernel == Kernel::registered)
    return run_registered(x, values, positions, bias, residual, in_features, epilogue, choice);
  const OnDevice guard(c.weight.device());
  const Route route = route_of(c.weight, c.m, choice, ending.gated);
  if (route.sparse && route.gate_inside) return product(c, ending.activation, route.variant, true);
  const Activation before = ending.before_gate();
  const Tensor y = route.sparse ? product(c, before, route.variant, false) : dense_product(c, before, dense);
  return ending.gated ? gated(op, y, c.m, ending.activation) : y;
}

// Returns a sentence about what the product of m rows would run.
std::string pattern_path(const Tensor& values, const Tensor& positions, int64_t in_features, std::string epilogue,
                         std::vector<int64_t> policy, int64_t block, int64_t m) {
  constexpr const char* op = "pattern_path";
  SF_REQUIRE(block == 6 || block == 8, op, "block must be 6 or 8, got " + std::to_string(block));
  const Weight w{values, positions, in_features, static_cast<int>(block)};
  w.check(op);
  const Choice choice = choice_for(op, policy, m, Device::cuda);
  const bool gate = epilogue_of(op, epilogue, w.n(), false).gated;
  if (m <= 0 || w.n() == 0) return "nothing: the result is empty";
  if (choice.kernel == Kernel::registered) return "kernel " + std::to_string(choice.code & 255) + ", registered from Python";
  const Route route = route_of(w, m, choice, gate);
  const std::string product = !route.sparse         ? "dense: " + route.why
                              : route.variant < 0 ? "tiles, the default variant"
                                                  : "tiles, variant " + std::to_string(route.variant);
  if (!gate) return product;
  return product + (route.gate_inside ? "; the gate is part of it" : "; the gate follows in a kernel of its own");
}

// Multiplies by a variant of the kernel, or throws.
Tensor pattern_linear(const Tensor& x, const Tensor& values, const Tensor& positions, std::optional<Tensor> bias,
                      std::optional<Tensor> residual, int64_t in_features, std::string epilogue, int64_t block, int64_t variant) {
  constexpr const char* op = "pattern_linear";
  const Call c(op, x, checked_tiles(op, values, positions, in_features, block), bias, residual);
  const Epilogue ending = epilogue_of(op, epilogue, c.weight.n(), residual.has_value());
  const OnDevice guard(c.weight.device());
  const std::string why = refused(c.weight, c.m, variant, ending.gated);
  SF_REQUIRE(why.empty(), op, "the kernel for few rows " + why);
  if (c.m == 0 || c.weight.n() == 0)
    return torch::stable::new_empty(x, sizes_with_last(x, ending.gated ? c.weight.n() / 2 : c.weight.n()));
  return product(c, ending.activation, variant, ending.gated);
}

// Returns the number of variants, whose ids are 0 … count − 1; 0 if the product is empty or the kernel wasn't built.
int64_t pattern_variants(int64_t n, int64_t k, int64_t m) {
  return kernels_built() && n > 0 && k > 0 && m > 0 ? kVariants : 0;
}

}  // namespace
}  // namespace sparseflow::cuda::patterns

STABLE_TORCH_LIBRARY_FRAGMENT(sparseflow, m) {
  m.def("pattern_tiles(Tensor values, Tensor positions, int in_features, int block) -> Tensor");
  m.def("pattern_portable(Tensor values, Tensor positions, int in_features, int block) -> (Tensor values, Tensor positions)");
  m.def("pattern_dense(Tensor values, Tensor positions, int in_features, int block) -> Tensor");
  m.def(
      "pattern_linear(Tensor x, Tensor values, Tensor positions, Tensor? bias, Tensor? residual, int in_features, "
      "str epilogue, int block, int variant) -> Tensor");
  m.def(
      "pattern_path(Tensor values, Tensor positions, int in_features, str epilogue, int[] policy, int block, int m) -> str");
  m.def("pattern_variants(int n, int k, int m) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) {
  using namespace sparseflow::cuda::patterns;
  m.impl("pattern_tiles", TORCH_BOX(&pattern_tiles));
  m.impl("pattern_portable", TORCH_BOX(&pattern_portable));
  m.impl("pattern_dense", TORCH_BOX(&pattern_dense));
  m.impl("pattern_linear", TORCH_BOX(&pattern_linear));
  m.impl("pattern_path", TORCH_BOX(&pattern_path));
  m.impl("linear_4_6", TORCH_BOX(&linear<6>));
  m.impl("linear_6_8", TORCH_BOX(&linear<8>));
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) {
  m.impl("pattern_variants", TORCH_BOX(&sparseflow::cuda::patterns::pattern_variants));
}
