// What the operators of contextual MLPs and their kernels say to each other: plain data only, as in ../kernels.h.
#pragma once

#include "../kernels.h"

namespace sparseflow::cpu::contextual {

// Rows of a weight, one after the other; scale [rows] beside int8, else null.
struct Matrix {
  const void* data = nullptr;
  const float* scale = nullptr;
  Stored stored = Stored::f32;
  int64_t rows = 0, columns = 0;
  bool one_stream = false;  // as reads_one_stream() has it
};

// Rows in fp32, `pitch` floats from one to the next. What lies between the columns and the pitch may be read and written:
// of x it is zero.
struct Wide {
  float* data;
  int64_t count, pitch;
};

// y = (act(x · gateᵀ + gate_bias) ⊙ (x · upᵀ + up_bias)) · down; without a gate act(x · upᵀ + up_bias) · down.
struct Mlp {
  Matrix gate, up, down;        // of one type and shape; gate.data null where there is none
  const void *gate_bias, *up_bias;  // or null
  DType dtype;                  // of biases, x and y
  Activation activation;
  bool squared;                 // relu2
};

constexpr int64_t kPanel = 32;  // rows of x that a kernel takes, at most
constexpr int64_t kListSlack = 16;  // entries that a list of inputs has room for beyond them
constexpr int64_t kBatch = 8;   // neurons that are worked on together

// What follows the sums of a row of y [n] of `column_linear`: scale [n], bias [n] and residual [n], or null.
struct Ending {
  const float* scale;
  const void *bias, *residual;
  DType dtype;  // of bias, residual and y
};

// The kernels of one instruction set.
struct Kernels {
  void (*widen)(const void* from, DType, int64_t n, int64_t padded, float* to);
  // out[m * pitch + r] = x[m] · matrix[r] + bias[r] for rows r in [begin, end); bias may be null.
  void (*scores)(const Matrix&, const Wide& x, const float* bias, float* out, int64_t pitch, int64_t begin, int64_t end);
  // sums += what the `count` neurons of a list, all of them below the number of rows, give.
  void (*mlp)(const Mlp&, const Wide& x, const int32_t* neurons, int64_t count, const Wide& sums);
  // y [n] = the sum of `parts` rows, `stride` floats apart, + bias, which may be null.
  void (*finish)(const float* rows, int64_t parts, int64_t stride, const void* bias, DType, int64_t n, void* y);
  // Sets selected[i] to 1 for the k <= n largest scores, of equal ones for the first, and for every NaN. keys [n] is
  // overwritten.
  void (*mark_largest)(const float* scores, int64_t n, int64_t k, uint32_t* keys, uint8_t* selected);
  // Lists the places of the ones, ascending, and then zeros; returns how many.
  int32_t (*list)(const uint8_t* selected, int64_t n, int32_t* neurons);
  // Sets to zero what of x is below the threshold in magnitude; lists the columns, ascending, where any row isn't, in
  // kept [columns + 1]; returns how many.
  int64_t (*keep)(const Wide& x, int64_t columns, float threshold, int32_t* kept);
  // sums[m][n] = the sum of x[m][k] · matrix[k][n] over the listed k, for n in [begin, end).
  void (*column)(const Matrix&, const Wide& x, const int32_t* kept, int64_t count, const Wide& sums, int64_t begin,
                 int64_t end);
  // The same over every k.
  void (*every)(const Matrix&, const Wide& x, const Wide& sums, int64_t begin, int64_t end);
  // Columns [begin, end) of a row of a matrix in fp32.
  void (*widen_stored)(const Matrix&, int64_t row, int64_t begin, int64_t end, float* to);
  // Columns [begin, end) of a row of y.
  void (*finish_columns)(const float* sums, const Ending&, int64_t begin, int64_t end, void* y);
};

// Those of the instruction set that ../isa.h chose; throws likewise.
const Kernels& kernels();

}  // namespace sparseflow::cpu::contextual

namespace sparseflow::cpu {
namespace plain { extern const contextual::Kernels contextual_kernels; }
namespace avx2 { extern const contextual::Kernels contextual_kernels; }
namespace avx512 { extern const contextual::Kernels contextual_kernels; }
}  // namespace sparseflow::cpu
