#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "contextual/call.h"
#include "host.h"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace sparseflow::cpu {
namespace {

struct Level {
  std::string name;
  const Kernels* kernels;
  const contextual::Kernels* contextual;
  bool supported;
};

// The instruction sets that were compiled, from the simplest to the best. Those beyond avx512 add nothing for the
// contextual kernels.
std::vector<Level> levels() {
  [[maybe_unused]] const Host here = host();
  return {
#if defined(SPARSEFLOW_PLAIN)
      {"plain", &plain::kernels, &plain::contextual_kernels, true},
#endif
#if defined(SPARSEFLOW_AVX2)
      {"avx2", &avx2::kernels, &avx2::contextual_kernels, here.avx2},
#endif
#if defined(SPARSEFLOW_AVX512)
      {"avx512", &avx512::kernels, &avx512::contextual_kernels, here.avx512},
#endif
#if defined(SPARSEFLOW_AVX512BF16)
      {"avx512bf16", &avx512bf16::kernels, &avx512::contextual_kernels, here.avx512bf16},
#endif
#if defined(SPARSEFLOW_AMX)
      {"amx", &amx::kernels, &avx512::contextual_kernels, here.amx},
#endif
  };
}

std::vector<Level> supported(const std::vector<Level>& all) {
  std::vector<Level> able;
  for (const Level& l : all)
    if (l.supported) able.push_back(l);
  if (able.empty())
    throw std::runtime_error(
        "sparseflow: the native library was built with SPARSEFLOW_CPU=HOST on another machine, for its " +
        all.back().name + " alone, which this machine can't run. Build it for every machine: make build.");
  return able;
}

Level choose() {
  const std::vector<Level> able = supported(levels());
  const char* wanted = std::getenv("SPARSEFLOW_CPU_ISA");
  if (!wanted || !*wanted) return able.back();
  std::string names;
  for (const Level& l : able) {
    if (l.name == wanted) return l;
    names += (names.empty() ? "" : ", ") + l.name;
  }
  throw std::runtime_error("sparseflow: SPARSEFLOW_CPU_ISA is '" + std::string(wanted) +
                           "'; of this build this machine can run: " + names + ". Unset it to get the best.");
}

const Level& chosen() {
  static const Level level = choose();  // if it throws, the next call throws the same again
  return level;
}

}  // namespace

const std::string& isa_name() { return chosen().name; }
const Kernels& kernels() { return *chosen().kernels; }
const contextual::Kernels& contextual::kernels() { return *chosen().contextual; }

bool reads_one_stream() {
#if defined(__x86_64__)
  static const bool amd = (__builtin_cpu_init(), __builtin_cpu_is("amd"));
  return amd;
#else
  return false;
#endif
}

int64_t first_cache_bytes() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  static const long bytes = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return 32 * 1024;
}

}  // namespace sparseflow::cpu
