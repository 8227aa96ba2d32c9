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
};

const Driver& driver();

// torch's current stream on a device.
void* stream_of(int device);

bool capturing(void* stream);

// Whether `bytes` from `pointer` on lie in one allocation of the driver, so that reading them can't fault.
bool readable(const void* pointer, size_t bytes);

}  // namespace sparseflow::cuda
