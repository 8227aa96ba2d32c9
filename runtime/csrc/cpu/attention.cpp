// sparseflow::decode_attention on CPU: attention of few queries over the filled part of a cache, read where it lies.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <optional>

#include "args.h"
#include "isa.h"
#include "scratch.h"
#include "tape.h"

namespace sparseflow::cpu {
namespace {

using torch::headeronly::ScalarType;

constexpr const char* kOp = "decode_attention";
constexpr int64_t kFew = 16 * 1024;  // elements of keys and values that aren't worth waking a thread for

std::string type_of(const Tensor& t) { return torch::headeronly::toString(t.scalar_type()); }

void check(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& position,
           const std::optional<Tensor>& keep, int64_t window) {
  SF_REQUIRE(q.dim() == 4 && k.dim() == 4 && v.dim() == 4, kOp, "q, k and v must have four dimensions");
  SF_REQUIRE(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(), kOp,
             "q is " + type_of(q) + ", k " + type_of(k) + " and v " + type_of(v));
  const auto sizes = k.sizes(), others = v.sizes();
  SF_REQUIRE(std::equal(sizes.begin(), sizes.end(), others.begin()) && (k.size(0) == 1 || k.size(0) == q.size(0)) &&
                 k.size(3) == q.size(3),
             kOp, "k " + shape_of(k) + " and v " + shape_of(v) + " don't fit q " + shape_of(q));
  SF_REQUIRE(k.size(1) > 0 && q.size(1) % k.size(1) == 0, kOp,
             std::to_string(q.size(1)) + " heads of q are no multiple of " + std::to_string(k.size(1)) + " of k");
  SF_REQUIRE(!position || (position->numel() == 1 && position->scalar_type() == ScalarType::Long), kOp,
             "position must be one int64");
  SF_REQUIRE(!keep || (keep->dim() == 2 && keep->scalar_type() == ScalarType::Bool &&
                       (keep->size(0) == 1 || keep->size(0) == q.size(0)) && keep->size(1) >= k.size(2)),
             kOp, "keep must be bool [batch, at least " + std::to_string(k.size(2)) + "]");
  SF_REQUIRE(window >= 0 && (window == 0 || position), kOp, "window must be 0 or more, and it needs a position");
}

// A tensor whose last dimension lies in one piece, copied if necessary.
Tensor in_rows(const Tensor& t) { return t.stride(t.dim() - 1) == 1 ? t : torch::stable::contiguous(t); }

// The stride of the batch; 0 if one sequence serves all of it.
int64_t batch_stride(const Tensor& t) { return t.size(0) == 1 ? 0 : t.stride(0); }

// The keys that any query sees.
void limit(Attention& a, int64_t keys) {
  a.end = keys;
  if (!a.positioned) return;
  a.first = a.window ? std::clamp<int64_t>(a.position - a.window + 1, 0, keys) : 0;
  a.end = std::clamp(a.position + a.queries, a.first, keys);
}

void run(Attention& a) {
  const Kernels& kernel = kernels();
  const int64_t heads = a.batch * a.kv_heads, rows = a.group * a.queries;
  a.width_padded = (a.width + 15) / 16 * 16;
  a.stretches = (a.end - a.first + kStretch - 1) / kStretch;
  const Scratch parts(heads * a.stretches * rows * (a.width_padded + 2) * static_cast<int64_t>(sizeof(float)));
  a.parts = reinterpret_cast<float*>(parts.data());
  const int64_t grain = std::max<int64_t>(1, kFew / std::max<int64_t>(1, 2 * kStretch * a.width));
  torch::stable::parallel_for(0, heads * a.stretches, grain, [&](int64_t begin, int64_t end) {
    const Scratch local(kernel.attend_bytes(a));
    kernel.attend(a, begin, end, local.data());
  });
  kernel.join(a, 0, heads);
}

Tensor decode_attention(const Tensor& q_, const Tensor& k_, const Tensor& v_, std::optional<Tensor> position,
                        std::optional<Tensor> keep, double scale, int64_t window) {
  check(q_, k_, v_, position, keep, window);
  const Tensor q = in_rows(q_), k = in_rows(k_), v = in_rows(v_);
  const void* keep_at = keep ? keep->const_data_ptr() : nullptr;
  if (keep) keep = in_rows(*keep);
  Attention a = {};
  a.dtype = dtype_of(kOp, "q", q);
  const auto sizes = q.sizes();
  const Tensor out = torch::stable::new_empty(q, std::vector<int64_t>(sizes.begin(), sizes.end()));
  if (out.numel() == 0) return out;
  a.q = q.const_data_ptr(), a.k = k.const_data_ptr(), a.v = v.const_data_ptr(), a.out = out.mutable_data_ptr();
  a.q_batch = q.stride(0), a.q_head = q.stride(1), a.q_query = q.stride(2);
  a.k_batch = batch_stride(k), a.k_head = k.stride(1), a.k_key = k.stride(2);
  a.v_batch = batch_stride(v), a.v_head = v.stride(1), a.v_key = v.stride(2);
  a.batch = q.size(0), a.kv_heads = k.size(1), a.group = q.size(1) / k.size(1);
  a.queries = q.size(2), a.width = q.size(3);
  a.window = window, a.scale = static_cast<float>(scale), a.positioned = position.has_value();
  if (keep) a.keep = static_cast<const bool*>(keep->const_data_ptr()), a.keep_batch = batch_stride(*keep);
  if (q.const_data_ptr() != q_.const_data_ptr() || k.const_data_ptr() != k_.const_data_ptr() ||
      v.const_data_ptr() != v_.const_data_ptr() || (keep && a.keep != keep_at))
    spoil_tape("rows of attention's arguments don't lie in one piece");
  const int64_t keys = k.size(2);
  const auto* at = position ? static_cast<const int64_t*>(position->const_data_ptr()) : nullptr;
  // The position is read whenever it runs. Copies of the tensors hold their memory.
  perform([=, held = std::array{q, k, v, out, position.value_or(q), keep.value_or(q)}] {
    Attention now = a;
    if (at) now.position = *at;
    limit(now, keys);
    run(now);
  });
  return out;
}

}  // namespace
}  // namespace sparseflow::cpu

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CPU, m) {
  m.impl("decode_attention", TORCH_BOX(&sparseflow::cpu::decode_attention));
}
