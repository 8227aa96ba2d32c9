#include "instructions.cuh"
//
#include "launch.cuh"
#include "project.cuh"

namespace sparseflow::cuda::contextual {
namespace {

constexpr int kManyRows = 4;   // of x at a time

template <class W, class X, int Lanes, int Rows, bool Wide>
void launch_one(const Projection& p, int device, void* stream) {
  constexpr int each = kProjectThreads / Lanes;
  launch(multiply<W, X, Lanes, Rows, Wide>, dim3((p.n + each - 1) / each), kProjectThreads, p, device, stream);
}

// Short rows of W are many (those of a predictor's second factor, whose k is the rank), so few threads share a row.
template <class W, class X, int Rows, bool Wide>
void launch_rows(const Projection& p, int device, void* stream) {
  if constexpr (std::is_same_v<X, float>)
    if (p.k <= kLongestMarking) return launch_one<W, X, 8, Rows, Wide>(p, device, stream);
  launch_one<W, X, kProjectThreads, Rows, Wide>(p, device, stream);
}

template <class W, class X>
void launch_for(const Projection& p, int device, void* stream) {
  if (!p.wide) return launch_rows<W, X, 1, false>(p, device, stream);
  if (p.m == 1) return launch_rows<W, X, 1, true>(p, device, stream);
  launch_rows<W, X, kManyRows, true>(p, device, stream);
}

template <class X>
void launch_like(const Projection& p, Stored weight, int device, void* stream) {
  switch (weight) {
    case Stored::f32: return launch_for<float, X>(p, device, stream);
    case Stored::bf16: return launch_for<Bf16, X>(p, device, stream);
    case Stored::f16: return launch_for<Fp16, X>(p, device, stream);
    case Stored::i8: return launch_for<int8_t, X>(p, device, stream);
  }
}

}  // namespace

void project(const Projection& p, Stored weight, Stored x, int device, void* stream) {
  if (p.m == 0 || p.n == 0) return;
  switch (x) {
    case Stored::f32: return launch_like<float>(p, weight, device, stream);
    case Stored::bf16: return launch_like<Bf16>(p, weight, device, stream);
    default: return launch_like<Fp16>(p, weight, device, stream);
  }
}

}  // namespace sparseflow::cuda::contextual
