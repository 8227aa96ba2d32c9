// The instruction sets that this machine supports. The build asks too (host.cpp), so this needs no other header of ours.
#pragma once

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sparseflow::cpu {

struct Host {
  bool avx2 = false, avx512 = false, avx512bf16 = false, amx = false;
};

#if defined(__x86_64__)
// Whether AMX can be used. Linux enables the large tile registers only for processes that request them.
inline bool amx_usable() {
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

inline Host host() {
  __builtin_cpu_init();
  Host h;
  h.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  h.avx512 = h.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  h.avx512bf16 = h.avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
  h.amx = h.avx512bf16 && amx_usable();
  return h;
}
#else
inline Host host() { return {}; }
#endif

}  // namespace sparseflow::cpu
