// The kernels of this library, by their codes in policies. runtime/kernels/registry.py has the same codes, which
// test/unit/kernels/test_registry.py checks.
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
  tiles = 4,
  wide = 5,
  registered = 64,  // from here on, kernels registered from Python, which sparseflow::linear_registered runs
};

enum class Device { any, cpu, cuda };

struct KernelEntry {
  Kernel code;
  const char* name;
  Device device;
  int bits;  // the bits above the lowest byte of a policy's code that the kernel uses
};

constexpr std::array kKernels{
    KernelEntry{Kernel::dense, "dense", Device::any, 0},
    KernelEntry{Kernel::cpu, "cpu", Device::cpu, 0},
    KernelEntry{Kernel::cusparselt, "cusparselt", Device::cuda, 24},
    KernelEntry{Kernel::skinny, "skinny", Device::cuda, 16},
    KernelEntry{Kernel::tiles, "tiles", Device::cuda, 16},
    KernelEntry{Kernel::wide, "wide", Device::cuda, 16},
};
constexpr KernelEntry kRegistered{Kernel::registered, "registered", Device::any, 24};

// Returns the kernel that the lowest byte of a policy's code names, or null.
constexpr const KernelEntry* kernel_of(int64_t byte) {
  if (byte >= static_cast<int64_t>(Kernel::registered)) return &kRegistered;
  return byte < static_cast<int64_t>(kKernels.size()) ? &kKernels[static_cast<size_t>(byte)] : nullptr;
}

}  // namespace sparseflow
