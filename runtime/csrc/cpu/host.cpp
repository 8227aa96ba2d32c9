// Prints the best instruction set of this machine: a program that the build runs for SPARSEFLOW_CPU=HOST.
#include "host.h"

#include <cstdio>

int main() {
  const sparseflow::cpu::Host h = sparseflow::cpu::host();
  std::fputs(h.amx ? "amx" : h.avx512bf16 ? "avx512bf16" : h.avx512 ? "avx512" : h.avx2 ? "avx2" : "plain", stdout);
}
