// What is needed of libcuda and libtorch_cuda, found at run time: the library builds and loads without either.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace sparseflow::cuda {

struct Driver {
  std::string missing;  // why this process can't run CUDA, or ""
  AOTITorchError (*current_stream)(int32_t device, void** stream);
  int (*is_capturing)(void* stream, int* status);
  int (*exchange_capture_mode)(int* mode);
  int (*address_range)(uint64_t* base, size_t* size, uint64_t pointer);
  int (*synchronize)();
  int (*create_event)(void** event, unsigned flags);
  int (*record_event)(void* event, void* stream);
  int (*query_event)(void* event);
  int (*destroy_event)(void* event);
};

const Driver& driver();

// torch's current stream on a device.
void* stream_of(int device);

bool capturing(void* stream);

// Whether `bytes` from `pointer` on can be read without a fault, given that the first `valid` of them can: whether
// the rest lies in the driver's allocation that holds the last of those.
bool readable(const void* pointer, size_t valid, size_t bytes);

// While it lives, loading or unloading a kernel from this thread doesn't break a capture under way in any thread.
class Relaxed {
 public:
  Relaxed() { exchange(); }
  ~Relaxed() { exchange(); }
  Relaxed(const Relaxed&) = delete;
  Relaxed& operator=(const Relaxed&) = delete;

 private:
  void exchange() {
    if (driver().exchange_capture_mode) driver().exchange_capture_mode(&mode_);
  }
  int mode_ = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED; then what was there before
};

}  // namespace sparseflow::cuda
