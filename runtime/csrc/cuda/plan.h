// One prepared multiplication y = act(alpha · x·Wᵀ + bias) + beta · C of cuSPARSELt.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/types.h"
#include "cusparselt.h"

namespace sparseflow::cuda {

using torch::headeronly::ScalarType;

// The product that a plan computes, and its key in the cache.
struct Problem {
  int32_t device;
  int64_t n, k, m;  // W is [n, k], padded as in layout.h; y is [m, n]
  ScalarType in, out;
  Activation activation;  // none, relu or gelu
  bool bias, scaled;  // scaled: alpha is a device vector [n]
  int32_t algorithm, split_k;  // split_k: 0 leaves the library's choice

  bool operator==(const Problem&) const = default;
};

struct ProblemHash {
  size_t operator()(const Problem& p) const;
};

// cudaDataType of a dtype, or -1.
int type_code(ScalarType t);

// The library accepts only M's that are multiples of this: 8 or 16, by the element's size.
int64_t m_unit(ScalarType in);

// Returns the M whose plan serves `m`: from 65 on at most 12.5% and 256 rows larger, or a multiple of the library's unit.
int64_t bucket_of(int64_t m, ScalarType in);

// The dtype that the library expects of a bias.
ScalarType bias_dtype(ScalarType in, ScalarType out);

// The dtype that the library expects of a residual.
ScalarType residual_dtype(ScalarType out);

// Returns why cuSPARSELt can't run a problem, as a phrase that follows the library's name, or "".
std::string refusal(const Problem& problem);

// Allows products that are known to kill their process; for a process that may die.
void lift_refusals(bool on);

struct Arguments {
  const void *weight, *x, *c, *bias;  // weight: compressed
  const float* scale;                 // with Problem::scaled, on the device
  float alpha, beta;
  void *y, *workspace, *stream;
};

class Plan {
 public:
  // Throws std::runtime_error with the library's message. The problem's device must be current.
  explicit Plan(const Problem& problem);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  int device() const { return problem_.device; }
  size_t workspace() const { return workspace_; }
  int algorithms() const { return algorithms_; }

  // Launches on arguments.stream; thread-safe.
  void run(const Arguments& arguments);

  // Whether none of its launches still runs; never waits. Only a tracked plan knows this: it records an event at each
  // launch, so tracking must be set before the first.
  bool idle();
  bool tracked = true;

  // To be called after a device reset, when no object of the library may be used or destroyed any more.
  void abandon() { abandoned_ = true; }

  std::atomic<uint64_t> last_used{0};
  std::atomic<bool> pinned{false};  // a CUDA graph uses its kernels

 private:
  void describe();
  void choose();
  void release();
  void record(void* stream);

  const Problem problem_;
  const Api& api_;
  const Opaque* handle_;
  Opaque weight_, x_, c_, y_, description_, selection_, plan_;
  int made_ = 0;
  size_t workspace_ = 0;
  int algorithms_ = 0;
  std::atomic<bool> abandoned_{false};
  std::mutex mutex_;  // the bias is an attribute of the descriptor, which is read at launch
  const void* bias_ = nullptr;
  std::vector<std::pair<void*, void*>> launches_;  // streams, each with the event after its last launch
  bool lost_ = false;                              // the event after a launch could not be recorded
};

}  // namespace sparseflow::cuda
