// The kernels that this library has, by the codes that policies call them by: the other half of the table in
// runtime/kernels/registry.py, which test/unit/kernels/test_registry.py holds against this one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace sparseflow {

enum class Kernel : int64_t {
  dense = 0,
  cpu = 1,
  cusparselt = 2,
  skinny = 3,
  registered = 64,  // from here on kernels that were registered from Python, which sparseflow::linear_registered runs
};

enum class Device { any, cpu, cuda };

struct KernelEntry {
  Kernel code;
  const char* name;
  Device device;
  int bits;  // of a policy's code above its lowest byte that mean something to the kernel
};

constexpr std::array kKernels{
    KernelEntry{Kernel::dense, "dense", Device::any, 0},
    KernelEntry{Kernel::cpu, "cpu", Device::cpu, 0},
    KernelEntry{Kernel::cusparselt, "cusparselt", Device::cuda, 24},
    KernelEntry{Kernel::skinny, "skinny", Device::cuda, 16},
};
constexpr KernelEntry kRegistered{Kernel::registered, "registered", Device::any, 24};

// What the lowest byte of a policy's code calls, or null.
constexpr const KernelEntry* kernel_of(int64_t byte) {
  if (byte >= static_cast<int64_t>(Kernel::registered)) return &kRegistered;
  return byte < static_cast<int64_t>(kKernels.size()) ? &kKernels[static_cast<size_t>(byte)] : nullptr;
}

}  // namespace sparseflow
