// What the launches of both kernels share.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "skinny.h"

namespace sparseflow::cuda::skinny {

// 0 where there is none.
int attribute(cudaDeviceAttr which, int device);

// The bytes that a block can have if `per_sm` of them are to share a multiprocessor.
int shared_memory_of(int per_sm, int device);

void check(cudaError_t error);

// Once for each kernel and device, a bit of `flags`: the driver takes a lock for it.
void allow_shared_memory(const void* kernel, std::atomic<uint64_t>& flags, int bytes, int device);

// As in skinny.h, for the variants of hopper.cuh, counted from 0.
namespace hopper {

std::string refusal(int variant, const Product& p, int device);
int default_variant(const Product& p, int device);
int64_t partial_count(const Product& p, int variant, int device);
void forget_devices();
void run(const Product& p, bool half, int variant, int device, void* stream);

}  // namespace hopper
}  // namespace sparseflow::cuda::skinny
