// The functions of libcuda and libtorch_cuda that are used, found at run time: building and loading need neither.
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

// Whether `bytes` from `pointer` on can be read without a fault, given that the first `valid` of them can: the rest
// must lie in the driver's allocation that holds the last valid byte.
bool readable(const void* pointer, size_t valid, size_t bytes);

// During its lifetime, this thread can load or unload kernels without breaking a capture in another thread.
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
  int mode_ = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED; exchanged for the previous mode
};

}  // namespace sparseflow::cuda
