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

// What a plan is made for; also its key in the cache.
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

// M's that the library takes are multiples of this (of 8 or 16 by the element's size).
int64_t m_unit(ScalarType in);

// The M that serves `m`: at most 12.5% above it from 65 on, or the library's unit.
int64_t bucket_of(int64_t m, ScalarType in);

// The dtype that the library wants a bias in.
ScalarType bias_dtype(ScalarType in, ScalarType out);

// The dtype that the library wants a residual in.
ScalarType residual_dtype(ScalarType out);

// Why cuSPARSELt can't multiply so, as a sentence about it without its name, or "".
std::string refusal(const Problem& problem);

// Whether products that are known to kill their process are refused no longer: for a process that may die.
void lift_refusals(bool on);

struct Arguments {
  const void *weight, *x, *c, *bias;  // weight: compressed
  const float* scale;                 // with Problem::scaled, on the device
  float alpha, beta;
  void *y, *workspace, *stream;
};

class Plan {
 public:
  // Throws std::runtime_error with the library's words. The problem's device must be current.
  explicit Plan(const Problem& problem);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  int device() const { return problem_.device; }
  size_t workspace() const { return workspace_; }
  int algorithms() const { return algorithms_; }

  // Launches on arguments.stream. Several threads may call.
  void run(const Arguments& arguments);

  // Whether nothing that it launched runs any longer. Never waits. Only a tracked plan knows; that costs an event at
  // each launch, and must be settled before the first.
  bool idle();
  bool tracked = true;

  // After a device reset nothing of the library may be touched again.
  void abandon() { abandoned_ = true; }

  std::atomic<uint64_t> last_used{0};
  std::atomic<bool> pinned{false};  // a CUDA graph holds its kernels

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
  std::mutex mutex_;  // the bias is an attribute of the description, read at launch
  const void* bias_ = nullptr;
  std::vector<std::pair<void*, void*>> launches_;  // streams and, for each, the event behind its last launch
  bool lost_ = false;                              // a launch could not be followed by its event
};

}  // namespace sparseflow::cuda
