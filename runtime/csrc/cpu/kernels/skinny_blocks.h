// The product with a weight that keeps all but two of each block of B columns, for few rows of x. It is bound by
// memory: rows of W are read once, and each block is expanded to 8 columns in a register, with zeros at the dropped
// ones, which every row of x then multiplies. x is stored in fp32 with its blocks at a pitch of 8.
#pragma once

#include "blocks.h"
#include "skinny.h"

namespace sparseflow::cpu::SPARSEFLOW_ISA {

constexpr int kBlockRowsX = 8;  // rows of x at once, at most
constexpr int64_t kBlockPitch = kSkinnyBlock + W;

// Rows of W at once for `m` rows of x, so that the sums stay in registers.
constexpr int block_rows(int m) { return m <= 2 ? 4 : m <= 4 ? 2 : 1; }

#if defined(__AVX512F__)
typedef __m512 Columns;
constexpr int kTogether = 2;  // blocks in a register
#elif defined(__AVX2__)
typedef vf Columns;
constexpr int kTogether = 1;
#else
struct Columns {
  float lane[8];
};
inline Columns operator*(Columns a, const Columns& b) {
  for (int i = 0; i < 8; ++i) a.lane[i] *= b.lane[i];
  return a;
}
inline void operator+=(Columns& a, const Columns& b) {
  for (int i = 0; i < 8; ++i) a.lane[i] += b.lane[i];
}
constexpr int kTogether = 1;
#endif
constexpr int kColumns = 8 * kTogether;

// Expands kTogether blocks to fp32; reads kColumns values.
template <class D, int B>
inline Columns expand(const typename D::T* values, uint64_t codes) {
  using P = Blocks<B>;
  constexpr uint64_t kMask = (1 << P::kBits) - 1;
#if defined(__AVX512F__)
  const auto kept = static_cast<__mmask16>(P::tables.kept[codes & kMask] | P::tables.kept[codes >> P::kBits & kMask] << 8);
  return _mm512_maskz_expand_ps(kept, (__m512)D::load(values));
#elif defined(__AVX2__)
  const auto code = static_cast<uint32_t>(codes & kMask);
  if constexpr (sizeof(typename D::T) == 4) {
    return (vf)expand_bits<B>(reinterpret_cast<const uint32_t*>(values), code);
  } else if constexpr (__is_same(D, BF16)) {
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
    return (vf)_mm256_shuffle_epi8(both, *reinterpret_cast<const __m256i*>(P::tables.highs[code]));
  } else {
    return (vf)_mm256_cvtph_ps(expand_bits<B>(values, code));
  }
#else
  Columns columns = {};
  const uint32_t kept = P::tables.kept[codes & kMask];
  for (int i = 0; i < B; ++i)
    if (kept >> i & 1) columns.lane[i] = D::get(values++);
  return columns;
#endif
}

inline Columns columns_of(const float* x) {
#if defined(__AVX512F__)
  return _mm512_loadu_ps(x);
#elif defined(__AVX2__)
  return load(x);
#else
  Columns columns;
  std::memcpy(&columns, x, sizeof(columns));
  return columns;
#endif
}

inline float sum_of_columns(Columns v) {
  float s = 0;
#if defined(__AVX2__)
  for (int i = 0; i < kColumns; ++i) s += v[i];
#else
  for (float lane : v.lane) s += lane;
#endif
  return s;
}

// R rows of W from some block on, as far as they are multiplied in one go.
template <class D, int B, int R>
struct BlockRows {
  const typename D::T* values[R];
  const uint8_t* codes[R];
};

// Loads the codes of a step: of several bytes stored to memory and loaded as one word, the load would wait.
template <int B>
inline uint64_t step_codes(const uint8_t* codes) {
  uint32_t low;
  std::memcpy(&low, codes, 4);
  if constexpr (Blocks<B>::kStepBytes == 4) return low;
  return low | static_cast<uint64_t>(codes[4]) << 32;
}

// Adds the products of `steps` steps of R rows of W and M rows of x. `skip` is the bytes of values from the end of a
// row to where its stream goes on, for prefetching; negative: don't. On an AMD Milan (AVX2, M = 1, 4096²) fetching 2 KB
// ahead into the first-level cache read four rows of fp32 and bf16 at the pace of plain loads of the dense weight; into
// the second-level cache as one stream, one row at a time or without it they came slower.
template <class D, int B, int R, int M>
inline void block_steps(const BlockRows<D, B, R>& w, const float* x, int64_t x_pitch, int64_t steps, int64_t skip,
                        Columns (&s)[R][M]) {
  using P = Blocks<B>;
  constexpr int64_t kBytes = P::kStep * P::kKeep * sizeof(typename D::T);
  for (int64_t i = 0; i < steps; ++i) {
    uint64_t codes[R];
    for (int r = 0; r < R; ++r) {
      codes[r] = step_codes<B>(w.codes[r] + i * P::kStepBytes);
      if (skip >= 0)
        for (int64_t line = 0; line < kBytes; line += 64)
          fetch(reinterpret_cast<const char*>(w.values[r]) + i * kBytes + line, kValuesAhead,
                (steps - i) * kBytes - line, skip);
    }
#pragma GCC unroll 8
    for (int j = 0; j < P::kStep; j += kTogether)
      for (int r = 0; r < R; ++r) {
        const Columns columns = expand<D, B>(w.values[r] + (i * P::kStep + j) * P::kKeep, codes[r] >> j * P::kBits);
        for (int m = 0; m < M; ++m) s[r][m] += columns * columns_of(x + m * x_pitch + (i * P::kStep + j) * 8);
      }
  }
}

// Adds to sums[m][r] the products of steps [step0, step1) of R rows of W from `row` on, which repeat the last row past
// the end, and M rows of x from m0 on.
template <class D, int B, int R, int M>
void block_rows_of(const Plan& p, int64_t row, int64_t m0, int64_t step0, int64_t step1, float* sums) {
  using P = Blocks<B>;
  using T = typename D::T;
  const int64_t blocks = P::blocks(p.a.k), bytes = P::code_bytes(blocks), kept = blocks * P::kKeep;
  const float* x = reinterpret_cast<const float*>(p.scratch) + m0 * p.k_padded + step0 * P::kStep * 8;
  BlockRows<D, B, R> w;
  for (int r = 0; r < R; ++r) {
    const int64_t at = least(row + r, p.a.n - 1);
    w.values[r] = static_cast<const T*>(p.a.values) + at * kept + step0 * P::kStep * P::kKeep;
    w.codes[r] = p.a.positions + at * bytes + step0 * P::kStepBytes;
  }
  // The last steps of a row that little follows are copied, because expanding reads up to 8 values too far.
  const bool followed = (p.a.n - row - R) * kept >= 8;
  const int64_t whole = most(0, least(step1, (followed ? blocks : blocks - 2) / P::kStep) - step0);
  Columns s[R][M] = {};
  const int64_t others = (R - 1) * kept * static_cast<int64_t>(sizeof(T));
  block_steps<D, B, R, M>(w, x, p.k_padded, whole, m0 == 0 ? others : -1, s);
  const int64_t done = (step0 + whole) * P::kStep, left = least(blocks, step1 * P::kStep) - done;
  if (left > 0) {
    constexpr int kSteps = 2;
    T values[R][kSteps * P::kStep * P::kKeep + 16] = {};
    uint8_t codes[R][kSteps * P::kStepBytes] = {};
    BlockRows<D, B, R> last;
    for (int r = 0; r < R; ++r) {
      std::memcpy(values[r], w.values[r] + whole * P::kStep * P::kKeep, left * P::kKeep * sizeof(T));
      std::memcpy(codes[r], w.codes[r] + whole * P::kStepBytes, P::code_bytes(left));
      last.values[r] = values[r];
      last.codes[r] = codes[r];
    }
    block_steps<D, B, R, M>(last, x + whole * P::kStep * 8, p.k_padded, (left + P::kStep - 1) / P::kStep, -1, s);
  }
  for (int r = 0; r < R; ++r)
    for (int m = 0; m < M; ++m) sums[(m0 + m) * kBlockPitch + r] += sum_of_columns(s[r][m]);
}

template <class D, int B, int M>
void block_task_rows(const Plan& p, int64_t row0, int64_t rows, int64_t m0, int64_t step0, int64_t step1, float* sums) {
  constexpr int R = block_rows(M);
  for (int64_t r = 0; r < rows; r += R) block_rows_of<D, B, R, M>(p, row0 + r, m0, step0, step1, sums + r);
}

// Runs tasks of rows of W. A stretch of k at a time, so that x of it stays in the first-level cache and W in the
// second for further rows of x.
template <class D, int B>
void run_blocks(const Plan& p, int64_t begin, int64_t end, char* local) {
  using P = Blocks<B>;
  const int64_t padded = p.vectors, at_once = least(padded, kBlockRowsX);
  const int64_t steps = (P::blocks(p.a.k) + P::kStep - 1) / P::kStep;
  const int64_t stretch = most(1, p.block_bytes / (at_once * P::kStep * 8 * 4));
  auto* sums = reinterpret_cast<float*>(local);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row0 = i * p.row_block, rows = least(p.row_block, p.a.n - row0);
    std::memset(sums, 0, padded * kBlockPitch * sizeof(float));
    for (int64_t k = 0; k < steps; k += stretch)
      for (int64_t m = 0; m < padded; m += at_once) {
        const int64_t to = least(steps, k + stretch);
        switch (at_once) {
          case 1: block_task_rows<D, B, 1>(p, row0, rows, m, k, to, sums); break;
          case 2: block_task_rows<D, B, 2>(p, row0, rows, m, k, to, sums); break;
          case 4: block_task_rows<D, B, 4>(p, row0, rows, m, k, to, sums); break;
          default: block_task_rows<D, B, kBlockRowsX>(p, row0, rows, m, k, to, sums);
        }
      }
    for (int64_t m = 0; m < p.a.m; ++m) finish_row<D>(p.a, sums + m * kBlockPitch, m, row0, rows);
  }
}

template <class D, int B>
void prepare_blocks(const Plan& p, int64_t begin, int64_t end) {
  for (int64_t m = begin; m < end; ++m) {
    auto* to = reinterpret_cast<float*>(p.scratch) + m * p.k_padded;
    std::memset(to, 0, p.k_padded * sizeof(float));
    if (m >= p.a.m) continue;
    const auto* from = static_cast<const typename D::T*>(p.a.x) + m * p.a.x_stride;
    for (int64_t b = 0; b * B < p.a.k; ++b)
      for (int64_t c = 0; c < least(B, p.a.k - b * B); ++c) to[b * 8 + c] = D::get(from + b * B + c);
  }
}

template <class D, int B>
void plan_blocks(const Linear& a, int threads, Plan& p) {
  using P = Blocks<B>;
  p.a = a;
  p.vectors = a.m <= 2 ? a.m : a.m <= 4 ? 4 : round_up(a.m, kBlockRowsX);  // rows of x with those of zeros
  p.k_padded = (round_up(P::blocks(a.k), P::kStep) + P::kStep) * 8;
  p.scratch_bytes = p.vectors * p.k_padded * static_cast<int64_t>(sizeof(float));
  p.row_block = balanced_rows(a.n, threads, block_rows(1), kSkinnyBlock);
  p.local_bytes = p.vectors * kBlockPitch * static_cast<int64_t>(sizeof(float));
  p.prepare_tasks = p.vectors;
  p.run_tasks = (a.n + p.row_block - 1) / p.row_block;
  p.prepare = prepare_blocks<D, B>;
  p.run = run_blocks<D, B>;
}

}  // namespace sparseflow::cpu::SPARSEFLOW_ISA
