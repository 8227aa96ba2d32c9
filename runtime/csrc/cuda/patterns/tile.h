// The layout on CUDA of a weight in which all but two of each `block` columns are kept, for host and device.
//
// The kernel multiplies it by 2:4 tensor cores. The values that a block keeps are, in column order, two in each of
// `windows` overlapping windows of four columns: pairs of columns 0 1, 1 2 and (of eight columns) 2 3. So a window is a
// group of mma.sp, whose other operand gets the pairs of x that the window has, some of them twice. Nothing is expanded
// but the codes of blocks, which become the positions in the windows by a table.
//
// The unit of K is `unit` columns. A tile holds a unit of 64 rows, first of its first 16, and so on; the tiles of 64
// rows follow each other along K. For 16 rows there are
//   - `steps` fragments of 512 bytes, each a's registers of one m16n8k32, 16 bytes a lane: of lane 4g + q the windows q
//     of the rows g and g + 8, then q + 4 of both;
//   - the codes, in the order in which lanes look them up (code_word()).
// N is padded to 64 rows and K to whole units, with values of zero.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SPARSEFLOW_BOTH __host__ __device__
#else
#define SPARSEFLOW_BOTH
#endif

namespace sparseflow::cuda::patterns {

// Where a window of a block is: its fragment, its group of four in it.
struct Place {
  int step, group;
};

// Of what columns a window's pairs are: `even` is the lower pair of the group.
struct Window {
  int even, odd;
};

template <int Block>
struct Pattern {
  static_assert(Block == 6 || Block == 8);
  static constexpr int block = Block, kept = Block - 2, windows = kept / 2, code_bits = Block == 8 ? 5 : 4;
  static constexpr int codes = Block * (Block - 1) / 2;
  static constexpr int blocks = 16, unit = Block * blocks, steps = blocks * windows / 8;
  static constexpr int value_bytes = steps * 512, code_bytes = blocks * 16 * code_bits / 8;
  static constexpr int slab_bytes = value_bytes + code_bytes;  // 16 rows
  static constexpr int tile_bytes = 4 * slab_bytes;            // 64 rows
  static constexpr int table_entries = 1 << 2 * code_bits;

  // The columns dropped by a code, its rank among the pairs i < j in lexicographic order.
  SPARSEFLOW_BOTH static constexpr void dropped(int code, int& i, int& j) {
    int left = Block - 1;
    for (i = 0; code >= left && left > 1; ++i) code -= left--;
    j = i + 1 + code;
  }

  // Of two blocks that are beside each other in a fragment, one in even and one in odd groups.
  SPARSEFLOW_BOTH static constexpr int parity(int b) { return Block == 8 ? b / 4 % 2 : b / 2 % 2; }

  // Blocks of eight in odd groups are rotated by half, so that their pairs of x are on other banks.
  SPARSEFLOW_BOTH static constexpr int rotation(int b) { return Block == 8 && parity(b) ? 4 : 0; }

  // The pairs of window w of a block that isn't rotated.
  SPARSEFLOW_BOTH static constexpr Window window(int w) { return w == 0 ? Window{0, 1} : w == 1 ? Window{2, 1} : Window{2, 3}; }

  SPARSEFLOW_BOTH static constexpr Place place(int b, int w) {
    if constexpr (Block == 8) {
      // Of the 64 columns of three steps, the lanes 0 of a quad hold the positions of the local blocks 0 and 1, 1 of 2, 3.
      const int local = b % 4, side = local / 2, u = local % 2 * 3 + w;
      return {b / 8 * 3 + u / 2, 2 * (2 * side + u % 2) + parity(b)};
    } else {
      const int side = b % 2;
      return {b / 4, 2 * (2 * side + w) + parity(b)};
    }
  }

  // Bytes from the start of a slab to the two values of row r (of 16) in a window.
  SPARSEFLOW_BOTH static constexpr int value_at(int r, int b, int w) {
    const Place p = place(b, w);
    return p.step * 512 + (r % 8 * 4 + p.group % 4) * 16 + (p.group / 4 * 2 + r / 8) * 4;
  }
};

// Which two codes a lane looks up at once: of row r of a slab the blocks `even` and `odd`, beside each other. Their index in
// the table is code(even) | code(odd) << code_bits. Its low eight bits are byte 4 · lane + lookup of the slab's codes; of
// eight columns the other two are bits 2 · lookup of byte 128 + lane.
struct Lookup {
  int row, even, odd;
};

template <int Block>
SPARSEFLOW_BOTH constexpr Lookup lookup_of(int lane, int lookup) {
  const int q = lane % 4;
  if constexpr (Block == 8) {
    const int b = q / 2 * 8 + q % 2 * 2 + lookup % 2;
    return {lane / 4 + lookup / 2 * 8, b, b + 4};
  } else {
    const int b = lookup / 2 * 8 + q / 2 * 4 + q % 2;
    return {lane / 4 + lookup % 2 * 8, b, b + 2};
  }
}

// Reads the code of block b of row r of a slab.
template <int Block>
SPARSEFLOW_BOTH inline int code_in(const uint8_t* slab, int r, int b) {
  using P = Pattern<Block>;
  const uint8_t* codes = slab + P::value_bytes;
  if constexpr (Block == 8) {
    const int lane = r % 8 * 4 + b / 8 * 2 + b % 4 / 2, lookup = r / 8 * 2 + b % 2;
    const int index = codes[4 * lane + lookup] | (codes[128 + lane] >> 2 * lookup & 3) << 8;
    return index >> (P::parity(b) ? 5 : 0) & 31;
  } else {
    const int lane = r % 8 * 4 + b / 4 % 2 * 2 + b % 2, lookup = b / 8 * 2 + r / 8;
    return codes[4 * lane + lookup] >> (P::parity(b) ? 4 : 0) & 15;
  }
}

// The order in which the kept columns of a block go to the slots of its windows, and each window's positions as
// metadata. Slots 2w and 2w + 1 are window w's.
struct Slots {
  uint8_t column[6];
  uint8_t nibble[3];
};

template <int Block>
SPARSEFLOW_BOTH constexpr Slots slots_of(int code, int rotation) {
  using P = Pattern<Block>;
  int i = 0, j = 0;
  P::dropped(code, i, j);
  int kept[Block] = {};  // in rotated order
  int count = 0;
  for (int c = 0; c < Block; ++c) {
    const int column = (c + rotation) % Block;
    if (column != i && column != j) kept[count++] = c;
  }
  Slots out{};
  for (int w = 0; w < P::windows; ++w) {
    const Window window = P::window(w);
    int position[2] = {}, column[2] = {};
    for (int s = 0; s < 2; ++s) {
      const int c = kept[2 * w + s], pair = c / 2;
      position[s] = (pair == window.even ? 0 : 2) + c % 2;
      column[s] = (c + rotation) % Block;
    }
    const int first = position[0] < position[1] ? 0 : 1;
    out.column[2 * w] = static_cast<uint8_t>(column[first]);
    out.column[2 * w + 1] = static_cast<uint8_t>(column[1 - first]);
    out.nibble[w] = static_cast<uint8_t>(position[first] | position[1 - first] << 2);
  }
  return out;
}

struct Extent {
  int64_t n, k;  // of the weight itself
  int block;

  SPARSEFLOW_BOTH int unit() const { return 16 * block; }
  SPARSEFLOW_BOTH int64_t blocks() const { return (k + block - 1) / block; }
  SPARSEFLOW_BOTH int64_t units() const { return (k + unit() - 1) / unit(); }
  SPARSEFLOW_BOTH int64_t strips() const { return (n + 63) / 64; }
  SPARSEFLOW_BOTH int64_t tile_bytes() const { return block == 8 ? Pattern<8>::tile_bytes : Pattern<6>::tile_bytes; }
  SPARSEFLOW_BOTH int64_t bytes() const { return strips() * units() * tile_bytes(); }
};

}  // namespace sparseflow::cuda::patterns
