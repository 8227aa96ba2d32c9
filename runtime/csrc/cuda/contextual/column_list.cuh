// The list of a block's kept inputs, in shared memory. Its code is short on purpose: every block runs it once, and fetching
// instructions takes longer than running them. Include it after marks.cuh.
#pragma once

#include "column.h"
#include "marks.cuh"

namespace sparseflow::cuda::contextual {

// A kept input with its values in the rows of x, 0 where they are below the threshold.
template <int Rows>
struct alignas(Rows == 1 ? 4 : Rows == 2 ? 8 : 16) Kept {
  uint16_t input, values[Rows];
};

// The words of x, two inputs each, that a thread looks at for one list.
template <int Rows>
constexpr int kWords = Rows == 1 ? 4 : Rows == 2 ? 2 : 1;

template <int Threads, int Rows>
constexpr int kListBytes = Threads * kWords<Rows> * 2 * static_cast<int>(sizeof(Kept<Rows>));

constexpr int kSectorWords = 8;  // of the L2

// The inputs are dealt to the blocks of a row of the grid by sectors in turns, so that each has about as many kept ones
// wherever x is small, and looks at no others: looking at all of x took several microseconds.
struct Dealt {
  int words;  // of x
  int own;    // of this block's sectors

  __device__ explicit Dealt(const Columns& p) : words(p.pieces * 4) {
    const int blocks = gridDim.x, sectors = (words + kSectorWords - 1) / kSectorWords;
    own = (sectors + blocks - 1 - static_cast<int>(blockIdx.x)) / blocks * kSectorWords;
  }

  // The word of x that is this block's at a place.
  __device__ int at(int place) const {
    const int sector = place / kSectorWords * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
    return sector * kSectorWords + place % kSectorWords;
  }
};

// Returns bit 15 and bit 31 where the low and the high of two inputs are kept. The magnitudes of 16-bit floats are ordered
// as their bits are, NaN above all.
__device__ inline uint32_t kept_of(uint32_t two, uint32_t limit) { return ((two | 0x80008000u) - limit) & 0x80008000u; }

// The bits of kept_of() for inputs that exist.
__device__ inline uint32_t existing(int k, int word) {
  const int there = k - 2 * word;
  return there >= 2 ? 0x80008000u : there == 1 ? 0x8000u : 0;
}

// Lists the kept inputs of this block's words from `first` on, as many as kWords of each thread, and returns their number.
// To be called by all threads; `of_warp` is shared memory for a number of each warp.
template <int Threads, int Rows>
__device__ inline int list_kept(const Columns& p, const Dealt& dealt, int first, Kept<Rows>* list, int* of_warp) {
  constexpr int each = kWords<Rows>;
  uint32_t x[each][Rows], kept[each];
  int mine = 0, listed = 0;
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const int place = first + i * Threads + static_cast<int>(threadIdx.x), word = dealt.at(place);
    const bool there = place < dealt.own && word < dealt.words;
    kept[i] = 0;
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      x[i][r] = there && r < p.m ? static_cast<const uint32_t*>(p.x)[r * dealt.words + word] : 0;
      if (r < p.m) kept[i] |= kept_of(x[i][r], p.limit);
    }
    kept[i] &= there ? existing(p.k, word) : 0;
    mine += __popc(kept[i]);
  }
  int at = sum_before<Threads>(mine, listed, of_warp);
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const int word = dealt.at(first + i * Threads + static_cast<int>(threadIdx.x));
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      if (!(kept[i] >> (high ? 31 : 15) & 1)) continue;
      Kept<Rows> entry{};
      entry.input = static_cast<uint16_t>(2 * word + high);
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        const auto v = static_cast<uint16_t>(x[i][r] >> 16 * high);
        entry.values[r] = Rows == 1 || (v & 0x7fffu) >= (p.limit & 0xffffu) ? v : 0;
      }
      list[at++] = entry;
    }
  }
  __syncthreads();
  return listed;
}

}  // namespace sparseflow::cuda::contextual
