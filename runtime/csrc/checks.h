// What the operators of every device check and say alike.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace sparseflow {

using torch::stable::Tensor;

// Throws std::runtime_error("sparseflow::<op>: <message>").
[[noreturn]] void refuse(const char* op, const std::string& message);

// Refuses unless `ok`. The message, an expression, is made only then: this runs in every call.
#define SF_REQUIRE(ok, op, ...)                           \
  do {                                                    \
    if (!(ok)) ::sparseflow::refuse((op), (__VA_ARGS__)); \
  } while (false)

// "[2, 3]"
std::string shape_of(const Tensor& t);

std::vector<int64_t> sizes_with_last(const Tensor& x, int64_t last);

// What a policy's code means (runtime/backends.py): the backend in the low byte, for cuSPARSELt the algorithm in the
// next two and split-k in the one above (0 leaves the choice, 255 stands for −1), for the own kernel the variant.
enum Backend : int64_t { kDense = 0, kCpu = 1, kCusparselt = 2, kSkinny = 3 };
struct Choice {
  int64_t backend, algorithm = 0, split_k = 0;
};

// What `policy`, pairs of (from M rows on, code) in rising order, says for `m` rows; below its first pair, `own`.
// Throws where it is malformed or names another backend than those of `device` ("the CPU"): kDense, `own`, and beside
// cuSPARSELt kSkinny.
Choice choice_for(const char* op, const std::vector<int64_t>& policy, int64_t m, Backend own, const char* device);

}  // namespace sparseflow
