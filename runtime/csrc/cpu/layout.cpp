// The operators that prune, pack, unpack and check a weight.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <tuple>

#include "args.h"
#include "isa.h"

namespace sparseflow::cpu {
namespace {

using torch::headeronly::ScalarType;

// The fewest rows for a thread, so that starting it pays.
int64_t grain(int64_t k) { return std::max<int64_t>(1, 65536 / std::max<int64_t>(k, 1)); }

Tensor pruned(const char* op, const Tensor& weight, int64_t block) {
  const Tensor w = weight_of(op, weight);
  Tensor out = torch::stable::new_empty(w, {w.size(0), w.size(1)});
  const Kernels& k = kernels();
  const Weight bits = bits_of(w, block);
  void* to = out.mutable_data_ptr();
  torch::stable::parallel_for(0, bits.n, grain(bits.k), [&](int64_t begin, int64_t end) {
    k.prune(bits, to, begin, end);
  });
  return out;
}

std::tuple<Tensor, Tensor> packed(const char* op, const Tensor& weight, int64_t block) {
  const Tensor w = weight_of(op, weight);
  const PackedRow row = packed_row(w.size(1), block);
  Tensor values = torch::stable::new_empty(w, {w.size(0), row.kept});
  Tensor positions = torch::stable::new_empty(w, {w.size(0), row.bytes}, ScalarType::Byte);
  const Kernels& k = kernels();
  const Weight bits = bits_of(w, block);
  void* v = values.mutable_data_ptr();
  auto* p = static_cast<uint8_t*>(positions.mutable_data_ptr());
  torch::stable::parallel_for(0, bits.n, grain(bits.k), [&](int64_t begin, int64_t end) {
    k.pack(bits, v, p, begin, end);
  });
  return {values, positions};
}

Tensor unpacked(const char* op, const Tensor& values_, const Tensor& positions_, int64_t in_features, int64_t block) {
  check_packed(op, values_, positions_, in_features, block);
  const Tensor values = torch::stable::contiguous(values_), positions = torch::stable::contiguous(positions_);
  Tensor out = torch::stable::new_empty(values, {values.size(0), in_features});
  const Kernels& k = kernels();
  const Weight bits = bits_of(out, block);
  const void* v = values.const_data_ptr();
  const auto* p = static_cast<const uint8_t*>(positions.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, bits.n, grain(bits.k), [&](int64_t begin, int64_t end) {
    k.unpack(v, p, bits, to + begin * bits.k * bits.element_size, begin, end);
  });
  return out;
}

Tensor prune_2_4(const Tensor& weight) { return pruned("prune_2_4", weight, 4); }
std::tuple<Tensor, Tensor> pack_2_4(const Tensor& weight) { return packed("pack_2_4", weight, 4); }
Tensor unpack_2_4(const Tensor& values, const Tensor& positions, int64_t in_features) {
  return unpacked("unpack_2_4", values, positions, in_features, 4);
}

void require_block(const char* op, int64_t block) {
  SF_REQUIRE(block == 6 || block == 8, op, "block must be 6 or 8, got " + std::to_string(block));
}
Tensor prune_blocks(const Tensor& weight, int64_t block) {
  require_block("prune_blocks", block);
  return pruned("prune_blocks", weight, block);
}
std::tuple<Tensor, Tensor> pack_blocks(const Tensor& weight, int64_t block) {
  require_block("pack_blocks", block);
  return packed("pack_blocks", weight, block);
}
Tensor unpack_blocks(const Tensor& values, const Tensor& positions, int64_t in_features, int64_t block) {
  require_block("unpack_blocks", block);
  return unpacked("unpack_blocks", values, positions, in_features, block);
}

// Returns the first row that fails `check` and its first bad column, or (-1, -1).
template <class F>
std::tuple<int64_t, int64_t> first_failure(const Weight& w, const F& check) {
  std::atomic<int64_t> first{std::numeric_limits<int64_t>::max()};
  torch::stable::parallel_for(0, w.n, grain(w.k), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end && r < first.load(std::memory_order_relaxed); ++r) {
      if (check(r) < 0) continue;
      int64_t seen = first.load();
      while (r < seen && !first.compare_exchange_weak(seen, r)) {}
      return;
    }
  });
  const int64_t row = first.load();
  if (row == std::numeric_limits<int64_t>::max()) return {-1, -1};
  return {row, check(row)};
}

std::tuple<int64_t, int64_t> first_not_2_4(const Tensor& weight) {
  const Tensor w = weight_of("first_not_2_4", weight);
  const Weight bits = bits_of(w);
  const Kernels& k = kernels();
  auto [row, column] = first_failure(bits, [&](int64_t r) { return k.not_2_4(bits, r); });
  return {row, column < 0 ? column : column / 4};
}

std::tuple<int64_t, int64_t> first_not_finite(const Tensor& weight) {
  const Tensor w = weight_of("first_not_finite", weight);
  const DType dtype = dtype_of("first_not_finite", "weight", w);
  const Weight bits = bits_of(w);
  const Kernels& k = kernels();
  return first_failure(bits, [&](int64_t r) { return k.not_finite(bits, dtype, r); });
}

std::string cpu_isa() { return isa_name(); }

}  // namespace
}  // namespace sparseflow::cpu

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CPU, m) {
  using namespace sparseflow::cpu;
  m.impl("prune_2_4", TORCH_BOX(&prune_2_4));
  m.impl("pack_2_4", TORCH_BOX(&pack_2_4));
  m.impl("unpack_2_4", TORCH_BOX(&unpack_2_4));
  m.impl("prune_blocks", TORCH_BOX(&prune_blocks));
  m.impl("pack_blocks", TORCH_BOX(&pack_blocks));
  m.impl("unpack_blocks", TORCH_BOX(&unpack_blocks));
  m.impl("first_not_2_4", TORCH_BOX(&first_not_2_4));
  m.impl("first_not_finite", TORCH_BOX(&first_not_finite));
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&sparseflow::cpu::cpu_isa));
}
