#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "contextual/call.h"

#if defined(__linux__)
#include <sys/syscall.h>
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

#if defined(SPARSEFLOW_X86)
// Whether AMX can be used. Linux enables the large tile registers only for processes that request them.
bool amx_usable() {
  if (!__builtin_cpu_supports("amx-tile") || !__builtin_cpu_supports("amx-bf16") ||
      !__builtin_cpu_supports("avx512vbmi2"))
    return false;
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

// The supported instruction sets, from the simplest to the best.
std::vector<Level> levels() {
  std::vector<Level> all = {{"plain", &plain::kernels, &plain::contextual_kernels, true}};
#if defined(SPARSEFLOW_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
  all.push_back({"avx2", &avx2::kernels, &avx2::contextual_kernels, avx2});
  const contextual::Kernels* wide = &avx512::contextual_kernels;  // newer sets add nothing for these
  all.push_back({"avx512", &avx512::kernels, wide, avx512});
  all.push_back({"avx512bf16", &avx512bf16::kernels, wide, bf16});
  all.push_back({"amx", &amx::kernels, wide, bf16 && amx_usable()});
#endif
  return all;
}

std::string names_of_supported(const std::vector<Level>& all) {
  std::string names;
  for (const Level& l : all)
    if (l.supported) names += (names.empty() ? "" : ", ") + l.name;
  return names;
}

Level choose() {
  const std::vector<Level> all = levels();
  const char* wanted = std::getenv("SPARSEFLOW_CPU_ISA");
  if (!wanted || !*wanted) {
    Level best = all.front();
    for (const Level& l : all)
      if (l.supported) best = l;
    return best;
  }
  for (const Level& l : all)
    if (l.supported && l.name == wanted) return l;
  throw std::runtime_error(
      "sparseflow: SPARSEFLOW_CPU_ISA is '" + std::string(wanted) + "'; this machine can run: " +
      names_of_supported(all) + ". Unset it to get the best.");
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
#if defined(SPARSEFLOW_X86)
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
