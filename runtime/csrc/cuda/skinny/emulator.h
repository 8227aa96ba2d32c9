// The functions of device.cuh for the host. They run the unchanged kernel, with a fiber for each thread and the
// instructions as the PTX ISA describes them. Runnable fibers take turns at random, and an asynchronous copy happens at
// a random moment between its start and the wait for it, so that a missing barrier or wait shows. emulate.cpp drives
// it, compiled with -U_FORTIFY_SOURCE.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct float4 {
  float x, y, z, w;
};
struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

namespace emulated {

constexpr size_t kStackBytes = 256 << 10;

struct Fiber;

struct Barrier {
  size_t expected = 0;
  std::vector<Fiber*> waiting;
};

struct Copy {
  uint8_t* to;
  const void* from;  // or null for zeros
};

struct Warp {
  Barrier barrier;
  uint32_t a[32][4], b[32][4], positions[32];
  const uint8_t* rows[32];
  uint64_t mail[32];  // what lanes exchange
};

struct Block {
  std::vector<uint8_t> shared;
  Barrier barrier;
  std::vector<Warp> warps;
  unsigned running = 0;
};

struct Fiber {
  ucontext_t context;  // to start in
  bool started = false;
  jmp_buf place;  // to go on at; swapcontext saves the signal mask too, by a system call that takes half of the time
  std::unique_ptr<char[]> stack;
  Dim thread, block;
  Block* home = nullptr;
  std::vector<std::vector<Copy>> groups{1};  // groups of asynchronous copies; the last is open
};

inline std::mt19937 random_source{1};
inline std::vector<Block> cluster;
inline Barrier cluster_barrier;
inline std::vector<Fiber*> ready;
inline Fiber* current = nullptr;
inline jmp_buf scheduler;
inline std::function<void()> body;
inline Dim grid;

inline void sleep() {
  if (!_setjmp(current->place)) _longjmp(scheduler, 1);
}

// Runs the current fiber until it sleeps.
inline void go_on() {
  if (_setjmp(scheduler)) return;
  if (current->started) _longjmp(current->place, 1);
  current->started = true;
  setcontext(&current->context);
}

inline void wait(Barrier& b) {
  b.waiting.push_back(current);
  if (b.waiting.size() == b.expected) {
    ready.insert(ready.end(), b.waiting.begin(), b.waiting.end());
    b.waiting.clear();
  }
  sleep();
}

inline Warp& warp() { return current->home->warps[current->thread.x / 32]; }

inline void entry() {
  body();
  Block& home = *current->home;
  if (--home.running == 0) home.shared.assign(home.shared.size(), 0xff);  // other blocks must not read it any more
  sleep();
}

inline void perform(const Copy& c) {
  if (c.from) std::memcpy(c.to, c.from, 16);
  else std::memset(c.to, 0, 16);
}

inline void start(const Copy& c) {
  if (random_source() & 1) perform(c);
  else current->groups.back().push_back(c);
}

// Runs `kernel` for the grid's clusters of `size` blocks along x, one cluster after the other. Returns false if it
// hangs because some threads wait at a barrier that others never reach.
inline bool launch(Dim blocks, unsigned threads, unsigned size, size_t shared_bytes, std::function<void()> kernel) {
  body = std::move(kernel);
  grid = blocks;
  std::vector<Fiber> fibers(size_t(size) * threads);
  for (auto& f : fibers) f.stack.reset(new char[kStackBytes]);
  for (unsigned i = 0; i < blocks.x / size * blocks.y * blocks.z; ++i) {
    const unsigned across = blocks.x / size;
    cluster.assign(size, {});
    cluster_barrier = {fibers.size(), {}};
    for (auto& b : cluster) {
      b.shared.assign(shared_bytes + 128, 0xff);  // NaN
      b.barrier.expected = b.running = threads;
      b.warps.resize(threads / 32);
      for (auto& w : b.warps) w.barrier.expected = 32;
    }
    ready.clear();
    for (unsigned f = 0; f < fibers.size(); ++f) {
      Fiber& fiber = fibers[f];
      fiber.thread = {f % threads, 0, 0};
      fiber.block = {i % across * size + f / threads, i / across % blocks.y, i / across / blocks.y};
      fiber.home = &cluster[f / threads];
      fiber.groups.assign(1, {});
      fiber.started = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStackBytes;
      makecontext(&fiber.context, entry, 0);
      ready.push_back(&fiber);
    }
    while (!ready.empty()) {
      const size_t at = random_source() % ready.size();
      current = ready[at];
      ready[at] = ready.back();
      ready.pop_back();
      go_on();
    }
    size_t stuck = cluster_barrier.waiting.size();
    for (auto& b : cluster) {
      stuck += b.barrier.waiting.size();
      for (auto& w : b.warps) stuck += w.barrier.waiting.size();
    }
    if (stuck) return false;
  }
  return true;
}

}  // namespace emulated

#define threadIdx (emulated::current->thread)
#define blockIdx (emulated::current->block)
#define gridDim (emulated::grid)
inline Dim blockDim;  // of kernels that use it, one thread

inline void __syncthreads() { emulated::wait(emulated::current->home->barrier); }

namespace sparseflow::cuda::skinny {

struct Bf16 {};
struct Fp16 {};

using Shared = uint32_t;

inline uint8_t* shared_memory() {
  const auto p = reinterpret_cast<uintptr_t>(emulated::current->home->shared.data());
  return reinterpret_cast<uint8_t*>((p + 127) / 128 * 128);
}
inline Shared shared_address(const void* p) {
  return static_cast<Shared>(static_cast<const uint8_t*>(p) - shared_memory());
}
inline uint8_t* at(Shared s, Shared aligned = 8) {
  if (s % aligned) std::abort();
  return shared_memory() + s;
}
inline uint64_t read_once() { return 0; }
inline void copy(Shared to, const void* from, uint64_t) {
  if (to % 16 || reinterpret_cast<uintptr_t>(from) % 16) std::abort();
  emulated::start({at(to), from});
}
inline void copy_or_zero(Shared to, const void* from, bool take) { emulated::start({at(to), take ? from : nullptr}); }
inline void commit() { emulated::current->groups.emplace_back(); }

template <int Pending>
void wait_for_all_but() {
  auto& groups = emulated::current->groups;
  const size_t done = groups.size() - 1 > Pending ? groups.size() - 1 - Pending : 0;
  for (size_t g = 0; g < done; ++g)
    for (const auto& c : groups[g]) emulated::perform(c);
  groups.erase(groups.begin(), groups.begin() + static_cast<std::ptrdiff_t>(done));
}

inline uint2 load8(Shared from) {
  uint2 v;
  std::memcpy(&v, at(from), 8);
  return v;
}

inline uint32_t load4(Shared from) {
  uint32_t v;
  std::memcpy(&v, at(from, 4), 4);
  return v;
}

inline void load_matrices(uint32_t (&out)[4], Shared row) {
  auto& w = emulated::warp();
  const unsigned lane = threadIdx.x % 32;
  if (row % 16) std::abort();
  w.rows[lane] = at(row);
  emulated::wait(w.barrier);
  for (int i = 0; i < 4; ++i) std::memcpy(&out[i], w.rows[8 * i + lane / 4] + lane % 4 * 4, 4);
  emulated::wait(w.barrier);
}

template <class T>
float to_float(uint16_t bits) {
  static_assert(std::is_same_v<T, Bf16>);
  const uint32_t wide = uint32_t(bits) << 16;
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}

template <class T>
uint16_t from_float(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class T>
uint32_t multiply_pair(uint32_t a, uint32_t b) {
  const auto half = [](uint32_t word, int i) { return to_float<T>(static_cast<uint16_t>(word >> 16 * i)); };
  const auto product = [&](int i) { return uint32_t(from_float<T>(half(a, i) * half(b, i))); };
  return product(0) | product(1) << 16;
}

// PTX ISA, m16n8k32 of 16-bit types, A sparse. A: register 0 row g group t, 1 row g + 8 group t, 2 and 3 the same for
// group t + 4. B: register i rows 8i + 2t and + 1 of column g. Positions: lane 4g + 2 · selector has groups 0 … 3 of
// row g in its low half and of row g + 8 in the high one, the next lane groups 4 … 7.
template <class T, int Selector>
void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t positions) {
  auto& w = emulated::warp();
  const unsigned lane = threadIdx.x % 32;
  std::memcpy(w.a[lane], a, 16);
  std::memcpy(w.b[lane], b, 16);
  w.positions[lane] = positions;
  emulated::wait(w.barrier);
  const auto half = [](uint32_t word, unsigned i) { return to_float<T>(static_cast<uint16_t>(word >> 16 * i)); };
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned g = lane / 4, column = lane % 4 * 2 + i % 2, lower = i / 2;
    for (unsigned group = 0; group < 8; ++group) {
      const uint32_t nibble = w.positions[4 * g + 2 * Selector + group / 4] >> (16 * lower + group % 4 * 4) & 15;
      if ((nibble & 3) >= nibble >> 2) std::abort();  // the ordered variant's rule
      const uint32_t kept = w.a[4 * g + group % 4][group / 4 * 2 + lower];
      for (unsigned j = 0; j < 2; ++j) {
        const unsigned k = 4 * group + (j ? nibble >> 2 : nibble & 3);
        d[i] += half(kept, j) * half(w.b[4 * column + k % 8 / 2][k / 8], k % 2);
      }
    }
  }
  emulated::wait(w.barrier);
}

inline void sync_cluster() { emulated::wait(emulated::cluster_barrier); }

inline const float* peer(const float* mine, int rank) {
  const auto offset = reinterpret_cast<const uint8_t*>(mine) - shared_memory();
  const auto base = reinterpret_cast<uintptr_t>(emulated::cluster[static_cast<size_t>(rank)].shared.data());
  return reinterpret_cast<const float*>((base + 127) / 128 * 128 + static_cast<uintptr_t>(offset));
}

}  // namespace sparseflow::cuda::skinny
