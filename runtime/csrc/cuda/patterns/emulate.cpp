// Checks the layout of tile.h on the host: a slab of 16 rows is written as tiles.cu does it, and read as decode.cuh and
// mma.sp do, with whole numbers, against plain loops.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "tile.h"

namespace sparseflow::cuda::patterns {
namespace {

uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = a | uint64_t(b) << 32;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) out |= static_cast<uint32_t>(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return out;
}

std::mt19937 random_number(7);
int below(int end) { return static_cast<int>(random_number() % end); }

template <int Block>
struct Slab {
  using P = Pattern<Block>;
  std::vector<int> weight = std::vector<int>(16 * P::unit), x = std::vector<int>(8 * P::unit);
  std::vector<uint8_t> bytes = std::vector<uint8_t>(P::slab_bytes);
  int codes[16][16];

  Slab() {
    for (int& v : x) v = below(17) - 8;
    for (int r = 0; r < 16; ++r)
      for (int b = 0; b < 16; ++b) write(r, b, below(P::codes));
    for (int lane = 0; lane < 32; ++lane)
      for (int l = 0; l < 4; ++l) {
        const Lookup at = lookup_of<Block>(lane, l);
        const int index = codes[at.row][at.even] | codes[at.row][at.odd] << P::code_bits;
        bytes[P::value_bytes + 4 * lane + l] = static_cast<uint8_t>(index);
        if (Block == 8) bytes[P::value_bytes + 128 + lane] |= index >> 8 << 2 * l;
      }
  }

  void write(int r, int b, int code) {
    int i = 0, j = 0;
    P::dropped(code, i, j);
    codes[r][b] = code;
    int* columns = &weight[r * P::unit + b * Block];
    for (int c = 0; c < Block; ++c) columns[c] = c == i || c == j ? 0 : 1 + below(200);
    const Slots slots = slots_of<Block>(code, P::rotation(b));
    for (int s = 0; s < P::kept; ++s) {
      const auto value = static_cast<uint16_t>(columns[slots.column[s]]);
      std::memcpy(&bytes[P::value_at(r, b, s / 2) + s % 2 * 2], &value, 2);
    }
  }

  uint32_t word(int at) const {
    uint32_t out = 0;
    std::memcpy(&out, &bytes[at], 4);
    return out;
  }

  // A lane's metadata, as load_metadata() finds it.
  void metadata(int lane, uint32_t (&out)[3]) const {
    const auto positions = [](int code, int rotation) {
      const Slots slots = slots_of<Block>(code < P::codes ? code : P::codes - 1, rotation);
      uint32_t spread = 0;
      for (int w = 0; w < P::windows; ++w) spread |= uint32_t(slots.nibble[w]) << 8 * w;
      return spread;
    };
    uint32_t found[4];
    for (int l = 0; l < 4; ++l) {
      int index = bytes[P::value_bytes + 4 * lane + l];
      if (Block == 8) index |= (bytes[P::value_bytes + 128 + lane] >> 2 * l & 3) << 8;
      const int even = index & ((1 << P::code_bits) - 1), odd = index >> P::code_bits;
      found[l] = positions(even, 0) | positions(odd, Block == 8 ? 4 : 0) << 4;
    }
    if (Block == 8) {
      out[0] = byte_permute(found[0], found[2], 0x5410);
      out[1] = byte_permute(byte_permute(found[0], found[1], 0x0042), byte_permute(found[2], found[3], 0x0042), 0x5410);
      out[2] = byte_permute(found[1], found[3], 0x6521);
    } else {
      out[0] = byte_permute(found[0], found[1], 0x5410);
      out[1] = byte_permute(found[2], found[3], 0x5410);
    }
  }

  // The pair of x, in pairs from the start of its row, that a lane's register i holds in a step.
  static int pair_of(int step, int lane, int i) {
    const int odd_group = lane / 2 % 2, odd_lane = lane % 2;
    if (Block == 6) return 12 * step + 3 * (i / 2) + 6 * odd_group + (i % 2 ? 2 - odd_lane : odd_lane);
    const int u = 2 * (step % 3) + i % 2, at = 32 * (step / 3) + 4 * (i / 2 * 2 + u / 3) + 16 * odd_group;
    const int a = at + odd_lane + 2 * odd_group, b = at + odd_lane + 2 - 2 * odd_group;
    return u % 3 == 0 ? a : u % 3 == 2 ? b : odd_lane ? a : b;
  }

  bool multiplies() const {
    std::vector<int64_t> y(16 * 8);
    uint32_t found[32][3];
    for (int lane = 0; lane < 32; ++lane) metadata(lane, found[lane]);
    for (int step = 0; step < P::steps; ++step) {
      const int selector = Block == 8 ? step / 3 : step % 2, of = Block == 8 ? step % 3 : step / 2;
      for (int r = 0; r < 16; ++r)
        for (int group = 0; group < 8; ++group) {
          const uint32_t pair = word(step * 512 + (r % 8 * 4 + group % 4) * 16 + (group / 4 * 2 + r / 8) * 4);
          const uint32_t nibble = found[r % 8 * 4 + 2 * selector + group / 4][of] >> (16 * (r / 8) + 4 * (group % 4)) & 15;
          const int position[2] = {static_cast<int>(nibble & 3), static_cast<int>(nibble >> 2)};
          if (position[0] >= position[1]) return false;  // mma.sp wants them in order
          for (int s = 0; s < 2; ++s)
            for (int m = 0; m < 8; ++m) {
              const int k = 4 * group + position[s], lane = 4 * m + k % 8 / 2;
              const int column = 2 * pair_of(step, lane, k / 8) + k % 2;
              y[r * 8 + m] += int64_t(pair >> 16 * s & 0xffff) * x[m * P::unit + column];
            }
        }
    }
    for (int r = 0; r < 16; ++r)
      for (int m = 0; m < 8; ++m) {
        int64_t expected = 0;
        for (int c = 0; c < P::unit; ++c) expected += int64_t(weight[r * P::unit + c]) * x[m * P::unit + c];
        if (y[r * 8 + m] != expected) return false;
      }
    return true;
  }

  bool keeps_codes() const {
    for (int r = 0; r < 16; ++r)
      for (int b = 0; b < 16; ++b)
        if (code_in<Block>(bytes.data(), r, b) != codes[r][b]) return false;
    return true;
  }
};

template <int Block>
int check(const char* name) {
  int bad = 0;
  for (int i = 0; i < 8; ++i) {
    const Slab<Block> slab;
    const bool right = slab.keeps_codes() && slab.multiplies();
    std::printf("%s %s slab %d\n", right ? "ok" : "WRONG", name, i);
    bad += !right;
  }
  return bad;
}

}  // namespace
}  // namespace sparseflow::cuda::patterns

int main() { return sparseflow::cuda::patterns::check<6>("4:6") + sparseflow::cuda::patterns::check<8>("6:8"); }
