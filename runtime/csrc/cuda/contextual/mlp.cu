#include "instructions.cuh"
//
#include "launch.cuh"
#include "mlp.cuh"

#include <algorithm>

namespace sparseflow::cuda::contextual {
namespace {

constexpr int kManyRows = 4;  // of x at a time

template <class W, class X, int Rows, bool Wide>
void launch_both(const Mlp& p, int device, void* stream) {
  const int lists = p.per_row ? p.m : 1, warps = kUpThreads / 32;
  const int room = std::max(1, processors(device) * (Rows == 1 ? 8 : 4) / lists);
  const auto blocks = static_cast<unsigned>(std::clamp((p.intermediate + warps - 1) / warps, 1, room));
  launch(gate_and_up<W, X, Rows, Wide>, {blocks, static_cast<unsigned>(lists)}, kUpThreads, p, device, stream);
  launch(sum_of_down<W, X, Rows, Wide>,
         {static_cast<unsigned>(strips(p.hidden)), static_cast<unsigned>(p.splits), static_cast<unsigned>(lists)},
         kDownThreads, p, device, stream);
}

template <class W, class X>
void launch_for(const Mlp& p, int device, void* stream) {
  if (!p.wide) return launch_both<W, X, 1, false>(p, device, stream);
  if (p.per_row || p.m == 1) return launch_both<W, X, 1, true>(p, device, stream);
  launch_both<W, X, kManyRows, true>(p, device, stream);
}

template <class X>
void launch_like(const Mlp& p, Stored weights, int device, void* stream) {
  if (weights == Stored::i8) return launch_for<int8_t, X>(p, device, stream);
  launch_for<X, X>(p, device, stream);
}

}  // namespace

int splits_for(int hidden, int lists, int device) {
  return std::max(1, 2 * processors(device) / (strips(hidden) * std::max(1, lists)));
}

void run(const Mlp& p, Stored weights, Stored x, int device, void* stream) {
  switch (x) {
    case Stored::f32: return launch_like<float>(p, weights, device, stream);
    case Stored::bf16: return launch_like<Bf16>(p, weights, device, stream);
    default: return launch_like<Fp16>(p, weights, device, stream);
  }
}

}  // namespace sparseflow::cuda::contextual
