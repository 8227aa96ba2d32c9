// Scratch memory that outlives a call, so that large calls don't fault in new pages each time.
#pragma once

#include <cstdint>

namespace sparseflow::cpu {

// A buffer borrowed for one call from a pool shared by all threads; 64-byte aligned, with undefined contents. The pool
// keeps a bounded amount of memory between calls; larger buffers are allocated and freed.
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
