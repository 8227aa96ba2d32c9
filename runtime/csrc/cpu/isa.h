// The instruction set that the kernels run with, chosen once for a process.
#pragma once

#include <string>

#include "kernels.h"

namespace sparseflow::cpu {

// "plain", "avx2", "avx512", "avx512bf16" or "amx": the best that the machine has, or the one that SPARSEFLOW_CPU_ISA
// names. Throws std::runtime_error where that names none, or one that the machine lacks.
const std::string& isa_name();

// The kernels of that instruction set; throws likewise.
const Kernels& kernels();

// Bytes of the first-level data cache of a core; 32 KB where the system doesn't tell.
int64_t first_cache_bytes();

}  // namespace sparseflow::cpu
