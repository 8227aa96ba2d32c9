// The instruction set that the kernels run with, chosen once for a process.
#pragma once

#include <string>

#include "kernels.h"

namespace sparseflow::cpu {

// Returns "plain", "avx2", "avx512", "avx512bf16" or "amx": the best that was compiled and the machine supports, or the
// one that SPARSEFLOW_CPU_ISA names. Throws std::runtime_error if that is unknown or can't run, or none can.
const std::string& isa_name();

// Returns the kernels of that instruction set; throws as isa_name() does.
const Kernels& kernels();

// Returns whether a core reads memory best as a single stream. On an AMD EPYC (Zen 4) one row of W at a time came at the pace
// of plain loads, 1.2 times that of four; an Intel Xeon was measured to want four rows, fetched ahead.
bool reads_one_stream();

// Returns the bytes of a core's first-level data cache; 32 KB if the system doesn't report it.
int64_t first_cache_bytes();

}  // namespace sparseflow::cpu
