#include "tape.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <utility>
#include <vector>

#include "common/checks.h"

namespace sparseflow::cpu {
namespace {

struct Tape {
  std::vector<std::function<void()>> calls;
  std::string spoiled;
};

thread_local Tape* current = nullptr;

using Pointers = std::vector<void*>;

template <size_t... I>
void call_with(void* function, const Pointers& p, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(decltype((void)I, static_cast<void*>(nullptr))...)>(function)(p[I]...);
}

// Calls a C function of so many pointers. It may be given more than it takes: in the calling conventions of Linux the
// caller puts them away.
template <size_t N>
void call_kernel(void* function, const Pointers& p) {
  if constexpr (N < 1024)
    if (p.size() > N) return call_kernel<2 * N>(function, p);
  Pointers padded = p;
  padded.resize(N);
  call_with(function, padded, std::make_index_sequence<N>());
}

constexpr size_t kMostPointers = 1024;

Tape& tape_of(int64_t tape) { return *reinterpret_cast<Tape*>(tape); }

int64_t begin() {
  SF_REQUIRE(current == nullptr, "tape_begin", "this thread records a tape already");
  current = new Tape;
  return reinterpret_cast<int64_t>(current);
}

// Returns why the tape can't be played; empty if it can.
std::string end(int64_t tape) {
  current = nullptr;
  return tape_of(tape).spoiled;
}

int64_t kernel(int64_t function, std::vector<int64_t> pointers) {
  SF_REQUIRE(recording(), "tape_kernel", "this thread records no tape");
  if (pointers.size() > kMostPointers) {
    spoil_tape("a kernel takes " + std::to_string(pointers.size()) + " pointers");
    return 0;
  }
  Pointers given;
  for (const int64_t p : pointers) given.push_back(reinterpret_cast<void*>(p));
  record([function, given] { call_kernel<8>(reinterpret_cast<void*>(function), given); });
  return 0;
}

int64_t play(int64_t tape) {
  for (const auto& call : tape_of(tape).calls) call();
  return 0;
}

int64_t free_tape(int64_t tape) {
  delete reinterpret_cast<Tape*>(tape);
  return 0;
}

}  // namespace

bool recording() { return current != nullptr; }

void record(std::function<void()> call) { current->calls.push_back(std::move(call)); }

void spoil_tape(const std::string& why) {
  if (current && current->spoiled.empty()) current->spoiled = why;
}

}  // namespace sparseflow::cpu

STABLE_TORCH_LIBRARY_IMPL(sparseflow, CompositeExplicitAutograd, m) {
  m.impl("tape_begin", TORCH_BOX(&sparseflow::cpu::begin));
  m.impl("tape_end", TORCH_BOX(&sparseflow::cpu::end));
  m.impl("tape_kernel", TORCH_BOX(&sparseflow::cpu::kernel));
  m.impl("tape_play", TORCH_BOX(&sparseflow::cpu::play));
  m.impl("tape_free", TORCH_BOX(&sparseflow::cpu::free_tape));
}
