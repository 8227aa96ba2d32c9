// Functions for launching both kernels.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "skinny.h"

namespace sparseflow::cuda::skinny {

// Returns an attribute of a device, or 0 if there is none.
int attribute(cudaDeviceAttr which, int device);

// Returns the bytes of shared memory of each block if `per_sm` blocks are to run on a multiprocessor.
int shared_memory_of(int per_sm, int device);

void check(cudaError_t error);

// Sets a kernel's shared memory, once for each device (a bit of `flags`), because the driver takes a lock for it.
void allow_shared_memory(const void* kernel, std::atomic<uint64_t>& flags, int bytes, int device);

// The functions of skinny.h for the variants of hopper.cuh, numbered from 0.
namespace hopper {

std::string refusal(int variant, const Product& p, int device);
int default_variant(const Product& p, int device);
int64_t partial_count(const Product& p, int variant, int device);
void forget_devices();

// The tag of counters in uninitialised memory (hopper_shares.cuh), whose low byte is 0.
uint64_t counter_tag();

void run(const Product& p, bool half, int variant, int device, void* stream);

}  // namespace hopper
}  // namespace sparseflow::cuda::skinny
