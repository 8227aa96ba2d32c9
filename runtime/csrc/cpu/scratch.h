// Working memory that outlives a call, so that big calls don't pay for fresh pages each time.
#pragma once

#include <cstdint>

namespace sparseflow::cpu {

// A buffer borrowed for one call from a pool that all threads share; 64-byte aligned, contents undefined. What the
// pool keeps between calls is bounded; larger needs are met and freed.
class Scratch {
 public:
  explicit Scratch(int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* data() const { return data_; }

 private:
  char* data_;
  int64_t capacity_;
};

}  // namespace sparseflow::cpu
