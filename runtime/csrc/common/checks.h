// Checks and error messages shared by the operators of all devices.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace sparseflow {

using torch::stable::Tensor;

// Throws std::runtime_error("sparseflow::<op>: <message>").
[[noreturn]] void refuse(const char* op, const std::string& message);

// Throws unless `ok`. The message is an expression that is evaluated only on failure, as this runs in every call.
#define SF_REQUIRE(ok, op, ...)                           \
  do {                                                    \
    if (!(ok)) ::sparseflow::refuse((op), (__VA_ARGS__)); \
  } while (false)

// Returns the sizes of a tensor as text: "[2, 3]".
std::string shape_of(const Tensor& t);

std::vector<int64_t> sizes_with_last(const Tensor& x, int64_t last);

}  // namespace sparseflow
