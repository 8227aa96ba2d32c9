#include "instructions.cuh"
//
#include "launch.cuh"
#include "requantize.cuh"

namespace sparseflow::cuda {
namespace {

using namespace rows;

template <class T, bool Scaled>
void by_gate(const Requantized& p, void* stream) {
  const Quantized to{p.gated ? p.n / 2 : p.n, p.y8, p.y_scale};
  if (p.gated) quantize_by_length<T>(Gate<T, Scaled>{{p}}, p.m, to, stream);
  else quantize_by_length<T>(Activated<T, Scaled>{{p}}, p.m, to, stream);
}

template <class T>
void by_scales(const Requantized& p, void* stream) {
  p.x_scale ? by_gate<T, true>(p, stream) : by_gate<T, false>(p, stream);
}

}  // namespace

bool can_requantize(int64_t row) { return pieces_of(row) <= kMostHeld; }

void requantize(const Requantized& p, void* stream) {
  if (p.m == 0) return;
  p.half ? by_scales<Fp16>(p, stream) : by_scales<Bf16>(p, stream);
}

}  // namespace sparseflow::cuda
