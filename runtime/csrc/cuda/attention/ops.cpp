// sparseflow::decode_attention_split: attention of few queries on CUDA (runtime/decode_attention.py decides about it).
#include <torch/csrc/stable/library.h>

#include "../driver.h"
#include "../multiply.h"
#include "decode.h"

namespace sparseflow::cuda::attention {
namespace {

constexpr const char* kOp = "decode_attention";
constexpr int kEight = 8;  // elements of 16 bytes

DType dtype_of(const Tensor& t) {
  SF_REQUIRE(t.scalar_type() == ScalarType::BFloat16 || t.scalar_type() == ScalarType::Half, kOp,
             "q must be bfloat16 or float16 on a CUDA device, got " + words(t));
  return t.scalar_type() == ScalarType::Half ? DType::f16 : DType::bf16;
}

// Rows that the kernel can read: elements one after the other, from multiples of 16 bytes on. Others are copied.
Tensor readable(const Tensor& t) {
  bool rows = t.stride(3) == 1 && reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
  for (int d = 0; d < 3; ++d) rows = rows && (t.stride(d) % kEight == 0 || t.size(d) == 1);
  return rows ? t : usable(t);
}

int index(int64_t size, const Tensor& t) {
  SF_REQUIRE(size <= INT32_MAX / 2, kOp, "takes no sizes this large: " + words(t));
  return static_cast<int>(size);
}

Tensor decode(const Tensor& q, const Tensor& k, const Tensor& v, std::optional<Tensor> position,
              std::optional<Tensor> keep, double scale, int64_t window) {
  SF_REQUIRE(q.is_cuda() && q.dim() == 4 && k.dim() == 4 && k.size(1) > 0, kOp,
             "q must be [batch, heads, queries, width] on a CUDA device, got " + words(q));
  const int device = q.get_device_index();
  const OnDevice guard(device);
  const DType dtype = dtype_of(q);
  const std::vector<int64_t> cache{q.size(0), k.size(1), k.size(2), q.size(3)};
  check_tensor(kOp, "k", k, q.scalar_type(), cache, device);
  check_tensor(kOp, "v", v, q.scalar_type(), cache, device);
  const int64_t group = q.size(1) / k.size(1);
  SF_REQUIRE(group * k.size(1) == q.size(1) && group * q.size(2) <= kMostRows, kOp,
             "takes up to " + std::to_string(kMostRows) + " queries of a head of keys, got " + words(q) + " and " + words(k));
  SF_REQUIRE(q.size(0) <= 65535 && k.size(1) <= 65535, kOp, "takes no sizes this large: " + words(k));
  const Tensor out = torch::stable::new_empty(q, q.sizes());
  if (out.numel() == 0) return out;
  const Tensor queries = readable(q), keys = readable(k), values = readable(v);
  Decode p{};
  p.q = queries.const_data_ptr();
  p.k = keys.const_data_ptr();
  p.v = values.const_data_ptr();
  p.out = out.mutable_data_ptr();
  if (position) {
    SF_REQUIRE(position->is_cuda() && position->scalar_type() == ScalarType::Long && position->numel() == 1, kOp,
               "position must be one int64 on the device of q, got " + words(*position));
    p.position = static_cast<const int64_t*>(position->const_data_ptr());
  }
  if (keep) {
    SF_REQUIRE(keep->is_cuda() && keep->scalar_type() == ScalarType::Bool && keep->dim() == 2 &&
                   keep->size(0) == q.size(0) && keep->size(1) >= k.size(2) && (keep->stride(1) == 1 || keep->size(1) == 1),
               kOp, "keep must be bool [batch, keys], got " + words(*keep));
    p.keep = static_cast<const bool*>(keep->const_data_ptr());
    p.keep_batch = keep->stride(0);
  }
  p.q_batch = queries.stride(0), p.q_head = queries.stride(1), p.q_query = queries.stride(2);
  p.k_batch = keys.stride(0), p.k_head = keys.stride(1), p.k_key = keys.stride(2);
  p.v_batch = values.stride(0), p.v_head = values.stride(1), p.v_key = values.stride(2);
  p.batch = static_cast<int>(q.size(0));
  p.kv_heads = static_cast<int>(k.size(1));
  p.group = static_cast<int>(group);
  p.queries = static_cast<int>(q.size(2));
  p.capacity = index(k.size(2), k);
  p.window = static_cast<int>(std::min<int64_t>(window, INT32_MAX / 2));
  p.scale = static_cast<float>(scale);
  run(p, static_cast<int>(q.size(3)), dtype, device, stream_of(device));
  return out;
}

}  // namespace
}  // namespace sparseflow::cuda::attention

STABLE_TORCH_LIBRARY_FRAGMENT(sparseflow, m) {
  m.def(
      "decode_attention_split(Tensor q, Tensor k, Tensor v, Tensor? position, Tensor? keep, float scale, int window) "
      "-> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CUDA, m) {
  m.impl("decode_attention_split", TORCH_BOX(&sparseflow::cuda::attention::decode));
}
