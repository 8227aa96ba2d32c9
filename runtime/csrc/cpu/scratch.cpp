#include "scratch.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sparseflow::cpu {
namespace {

constexpr int64_t kKeptBytes = 64 << 20;
constexpr int64_t kHugePage = 2 << 20;

struct Buffer {
  char* data;
  int64_t capacity;
};

struct Pool {
  std::mutex mutex;
  std::vector<Buffer> idle;
  int64_t bytes = 0;
};

// Never destroyed, because a thread may still be computing while the process exits.
Pool& pool() {
  static Pool& p = *new Pool;
  return p;
}

Buffer allocate(int64_t bytes) {
  const int64_t unit = bytes >= kHugePage ? kHugePage : 4096;
  const int64_t capacity = (bytes + unit - 1) / unit * unit;
  auto* data = static_cast<char*>(std::aligned_alloc(unit, capacity));
  if (!data) throw std::bad_alloc();
#if defined(__linux__)
  if (unit == kHugePage) madvise(data, capacity, MADV_HUGEPAGE);  // only a hint, so errors are ignored
#endif
  return {data, capacity};
}

// Takes the smallest idle buffer that is large enough; returns whether there is one.
bool take(int64_t bytes, Buffer& out) {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  auto best = p.idle.end();
  for (auto i = p.idle.begin(); i != p.idle.end(); ++i)
    if (i->capacity >= bytes && (best == p.idle.end() || i->capacity < best->capacity)) best = i;
  if (best == p.idle.end()) return false;
  out = *best;
  p.bytes -= out.capacity;
  p.idle.erase(best);
  return true;
}

bool give(Buffer b) {
  Pool& p = pool();
  const std::lock_guard lock(p.mutex);
  if (p.bytes + b.capacity > kKeptBytes) return false;
  p.idle.push_back(b);
  p.bytes += b.capacity;
  return true;
}

}  // namespace

Scratch::Scratch(int64_t bytes) {
  Buffer b;
  if (!take(bytes, b)) b = allocate(bytes > 0 ? bytes : 1);
  data_ = b.data;
  capacity_ = b.capacity;
}

Scratch::~Scratch() {
  if (!give({data_, capacity_})) std::free(data_);
}

}  // namespace sparseflow::cpu
