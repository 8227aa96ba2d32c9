#include "driver.h"

#include <dlfcn.h>

#include <stdexcept>

namespace sparseflow::cuda {
namespace {

std::string last_error() {
  const char* words = dlerror();
  return words ? words : "a function is missing";
}

template <class F>
bool find(void* library, const char* name, F& to) {
  to = reinterpret_cast<F>(dlsym(library, name));
  return to != nullptr;
}

Driver resolve() {
  Driver d{};
  void* torch = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!torch) {
    d.missing = "this torch was built without CUDA";
    return d;
  }
  void* cuda = dlopen("libcuda.so.1", RTLD_LAZY);
  if (!cuda) {
    d.missing = "no NVIDIA driver: " + last_error();
    return d;
  }
  const bool complete = find(torch, "aoti_torch_get_current_cuda_stream", d.current_stream) &&
                        find(cuda, "cuStreamIsCapturing", d.is_capturing) &&
                        find(cuda, "cuThreadExchangeStreamCaptureMode", d.exchange_capture_mode) &&
                        find(cuda, "cuMemGetAddressRange_v2", d.address_range) &&
                        find(cuda, "cuCtxSynchronize", d.synchronize) && find(cuda, "cuEventCreate", d.create_event) &&
                        find(cuda, "cuEventRecord", d.record_event) && find(cuda, "cuEventQuery", d.query_event) &&
                        find(cuda, "cuEventDestroy_v2", d.destroy_event);
  if (!complete) d.missing = "this torch or NVIDIA driver is too old: " + last_error();
  return d;
}

}  // namespace

const Driver& driver() {
  static const Driver d = resolve();
  return d;
}

void* stream_of(int device) {
  void* stream = nullptr;
  if (driver().current_stream(device, &stream) != 0) throw std::runtime_error("sparseflow: no current CUDA stream");
  return stream;
}

bool capturing(void* stream) {
  int status = 0;
  return driver().is_capturing(stream, &status) == 0 && status == 1;
}

bool readable(const void* pointer, size_t valid, size_t bytes) {
  // The allocation of the last byte counts: torch's expandable segments are many adjacent allocations.
  uint64_t base = 0;
  size_t size = 0;
  const auto at = reinterpret_cast<uint64_t>(pointer);
  return driver().address_range(&base, &size, at + valid - 1) == 0 && at + bytes <= base + size;
}

}  // namespace sparseflow::cuda
