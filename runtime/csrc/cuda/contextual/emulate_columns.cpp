// Runs the kernel of column.cuh on the host and compares it with plain loops. The data are small integers, so that sums
// are exact in any order. It isn't part of the library; test/unit/test_emulated.py builds and runs it.
#include <cstdio>

#include "emulator.h"
//
#include "column.cuh"

namespace sparseflow::cuda::contextual {
namespace {

int failures = 0;

int small() { return static_cast<int>(emulated::random_source() % 3) - 1; }

// 16-bit numbers from a multiple of 16 bytes on, and their values.
struct Numbers {
  std::vector<float> wide;
  std::vector<uint16_t> bits;
  size_t shift;

  explicit Numbers(size_t size) : wide(size), bits(size + 8) {
    shift = (16 - reinterpret_cast<uintptr_t>(bits.data()) % 16) % 16 / 2;
    for (size_t i = 0; i < size; ++i) put(i, static_cast<float>(small()));
  }
  void put(size_t i, float v) { wide[i] = v, bits[shift + i] = skinny::from_float<Bf16>(v); }
  uint16_t* start() { return bits.data() + shift; }
};

template <class S, template <class, class> class Stream, bool Cluster>
void check(int m, int k, int n, float share, unsigned shares, unsigned slabs, bool ending) {
  const int pieces = (k + 7) / 8, pitch = pieces * 8;
  Numbers x(size_t(m) * pitch), weight(size_t(k) * n), bias(n), residual(size_t(m) * n), y(size_t(m) * n);
  const float threshold = share == 0 ? 0 : 0.5f;
  for (size_t i = 0; i < x.wide.size(); ++i)
    x.put(i, float(emulated::random_source() % 1000) < 1000 * share ? 0.25f : small() < 0 ? -1.f : 2.f);
  Columns p{x.start(), weight.start(), ending ? bias.start() : nullptr, ending ? residual.start() : nullptr, y.start()};
  p.limit = skinny::from_float<Bf16>(threshold) * 0x10001u, p.m = m, p.k = k, p.n = n, p.pieces = pieces;
  const int slab = (n + int(slabs) - 1) / int(slabs);
  p.tiles = (slab + S::tile - 1) / S::tile;
  p.width = ((slab + p.tiles - 1) / p.tiles + 63) / 64 * 64;
  slabs = unsigned((n + p.width * p.tiles - 1) / (p.width * p.tiles));
  p.room = (k + int(shares) - 1) / int(shares) + 1;
  std::vector<float> partials(size_t(shares) * slabs * p.tiles * S::rows * S::tile, std::nanf(""));
  std::vector<uint64_t> counters(size_t(slabs) * p.tiles, 77);
  p.partials = partials.data(), p.counters = counters.data(), p.tag = 0x1234567890abcd00;
  const size_t bytes = S::ring_bytes + S::barrier_bytes + S::sum_bytes + S::box_bytes + list_bytes<S::rows>(p.room);
  bool ran = size_t(m) * pieces * 16 <= S::ring_bytes;
  int wrong = 0;
  for (int turn = 0; turn < 2 && ran; ++turn) {  // the second finds the counters as the first left them
    for (size_t i = 0; i < y.wide.size(); ++i) y.put(i, -12345);
    ran = ran && emulated::launch({shares, slabs}, S::threads, Cluster ? shares : 1, bytes,
                                  [&] { multiply_columns<Bf16, S, Stream, Cluster>(p); });
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        float sum = ending ? bias.wide[j] + residual.wide[size_t(i) * n + j] : 0;
        for (int c = 0; c < k; ++c)
          if (const float v = x.wide[size_t(i) * pitch + c]; !(std::fabs(v) < threshold))
            sum += v * weight.wide[size_t(c) * n + j];
        wrong += y.start()[size_t(i) * n + j] != skinny::from_float<Bf16>(sum);
      }
  }
  char what[200];
  std::snprintf(what, sizeof what, "columns M %d by %d K %d N %d left out %g threads %d depth %d tiles %d of %d, %u %s%s", m,
                S::rows, k, n, share, S::threads, S::depth, p.tiles, p.width, shares, Cluster ? "in a cluster" : "in memory",
                ending ? " ending" : "");
  std::printf("%s %s\n", ran && !wrong ? "ok" : "WRONG", what);
  if (!ran) std::printf("  hangs\n");
  if (wrong) std::printf("  %d are wrong\n", wrong);
  failures += !ran || wrong;
}

int run_all() {
  using One = ColumnShape<64, 1, 4, 1>;
  using Wide = ColumnShape<128, 2, 3, 1>;
  using Four = ColumnShape<64, 1, 4, 4>;
  for (float share : {0.f, 0.4f, 0.97f, 1.f}) {
    check<One, BulkStream, true>(1, 256, 264, share, 4, 1, true);
    check<One, BulkStream, true>(1, 77, 1000, share, 2, 2, false);
    check<One, CopyStream, false>(1, 99, 520, share, 3, 2, true);
    check<Wide, BulkStream, true>(1, 530, 2056, share, 2, 3, true);
    check<Four, BulkStream, true>(4, 200, 328, share, 4, 2, false);
    check<Four, CopyStream, false>(3, 123, 264, share, 2, 1, true);
  }
  check<One, BulkStream, true>(1, 2001, 8, 0.4f, 2, 1, false);
  check<One, CopyStream, false>(1, 8, 2000, 0.4f, 1, 3, false);
  return failures;
}

}  // namespace
}  // namespace sparseflow::cuda::contextual

int main() { return sparseflow::cuda::contextual::run_all(); }
