// The plan cache over a cuSPARSELt and a driver that are made up: each case prints nothing and returns 0, or dies.
//
// Streams are counters. A launch adds one to what was asked of its stream; `advance` lets what was asked be done.
// Destroying a plan while a launch of its isn't done, or reading another call's bias, is what mustn't happen.
#include "cuda/cache.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "cuda/driver.h"

using namespace sparseflow::cuda;

#define EXPECT(what) \
  if (!(what)) std::fprintf(stderr, "line %d: %s\n", __LINE__, #what), std::_Exit(1)

namespace {

struct Stream {
  std::atomic<int64_t> asked{0}, done{0};
};
std::array<Stream, 4> streams;

struct Made {  // what a plan's first bytes point to
  const Opaque* description;
  std::array<std::atomic<int64_t>, 4> last{};  // its last launch on each stream
};
struct Event {
  std::atomic<Stream*> stream{nullptr};
  std::atomic<int64_t> at{0};
};

std::atomic<int> alive{0}, synchronize_status{0};

template <class T>
T& in(const Opaque* o) {
  return *reinterpret_cast<T*>(const_cast<unsigned char*>(o->data));
}

void advance() {
  for (Stream& s : streams) s.done = s.asked.load();
}

int destroy_plan(const Opaque* plan) {
  Made* made = in<Made*>(plan);
  for (size_t s = 0; s < streams.size(); ++s) EXPECT(made->last[s] <= streams[s].done);
  delete made;
  --alive;
  return 0;
}

int make_plan(const Opaque*, Opaque* plan, const Opaque* description, const Opaque* selection) {
  if (in<int>(selection) == 99) return 7;
  if (in<int>(selection) == 50) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  in<Made*>(plan) = new Made{description};
  ++alive;
  return 0;
}

// The caller gives its bias as x too.
int multiply(const Opaque*, const Opaque* plan, const void*, const void*, const void* x, const void*, const void*, void*,
             void*, void** stream, int32_t) {
  Made* made = in<Made*>(plan);
  EXPECT(in<const void*>(made->description) == x);
  auto* s = static_cast<Stream*>(*stream);
  made->last[s - streams.data()] = ++s->asked;
  return 0;
}

int take_attribute(const Opaque*, Opaque* description, int attribute, const void* value, size_t size) {
  if (attribute == lt::bias_pointer) std::memcpy(description->data, value, size);
  return 0;
}

int ok(const Opaque*) { return 0; }

Api fake() {
  Api a{};
  a.error_string = [](int) { return "made up"; };
  a.structured = [](const Opaque*, Opaque*, int64_t, int64_t, int64_t, uint32_t, int, int, int) { return 0; };
  a.dense = [](const Opaque*, Opaque*, int64_t, int64_t, int64_t, uint32_t, int, int) { return 0; };
  a.destroy_matrix = a.destroy_selection = ok;
  a.describe = [](const Opaque*, Opaque*, int, int, const Opaque*, const Opaque*, const Opaque*, const Opaque*, int) {
    return 0;
  };
  a.set = take_attribute;
  a.select = [](const Opaque*, Opaque*, const Opaque*, int) { return 0; };
  a.set_algorithm = [](const Opaque*, Opaque* selection, int attribute, const void* value, size_t) {
    if (attribute == lt::config_id) in<int>(selection) = *static_cast<const int*>(value);
    return 0;
  };
  a.get_algorithm = [](const Opaque*, const Opaque*, int, void* value, size_t) {
    *static_cast<int*>(value) = 100;
    return 0;
  };
  a.plan = make_plan;
  a.destroy_plan = destroy_plan;
  a.workspace = [](const Opaque*, const Opaque*, size_t* size) { return *size = 0, 0; };
  a.matmul = multiply;
  a.version = 1000;
  return a;
}

Driver made_up() {
  Driver d{};
  d.synchronize = [] { return advance(), synchronize_status.load(); };
  d.create_event = [](void** event, unsigned) { return *event = new Event, 0; };
  d.record_event = [](void* event, void* stream) {
    auto* s = static_cast<Stream*>(stream);
    static_cast<Event*>(event)->stream = s;
    static_cast<Event*>(event)->at = s->asked.load();
    return 0;
  };
  d.query_event = [](void* event) {
    auto* e = static_cast<Event*>(event);
    return e->stream.load()->done >= e->at ? 0 : 600;
  };
  d.destroy_event = [](void* event) { return delete static_cast<Event*>(event), 0; };
  return d;
}

}  // namespace

namespace sparseflow::cuda {
const Driver& driver() {
  static const Driver d = made_up();
  return d;
}
const Api& cusparselt() {
  static const Api a = fake();
  return a;
}
const Opaque* handle_of(int) {
  static const Opaque handle{};
  return &handle;
}
void Api::check(int status, const char* call) const {
  if (status) throw std::runtime_error(std::string(call) + " failed: " + error_string(status));
}
}  // namespace sparseflow::cuda

extern "C" {  // torch's device guard
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) { return *guard = nullptr, 0; }
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return 0; }
}

namespace {

PlanCache& cache = PlanCache::instance();

Problem problem(int64_t m, int algorithm = 0, ScalarType dtype = ScalarType::BFloat16) {
  return {0, 64, 64, m, dtype, dtype, sparseflow::Activation::none, true, false, algorithm, 0};
}

void launch(Plan& plan, int stream) {
  char bias = 0;
  plan.run({.x = &bias, .bias = &bias, .stream = &streams[stream]});
}

void plans_beyond_half_of_the_cache_are_destroyed_when_their_launches_are_done() {
  cache.limit(4);
  for (int64_t m = 1; m <= 8; ++m) launch(*cache.get(problem(m)), m % 4);
  EXPECT(cache.stats().plans == 4 && cache.stats().evicted == 4);
  EXPECT(alive == 8);  // nothing is done yet
  EXPECT(cache.find(problem(1)) && cache.find(problem(2)) && !cache.find(problem(3)) && cache.find(problem(8)));
  advance();
  cache.get(problem(9));
  EXPECT(alive == 4);
  cache.clear(true);
  EXPECT(alive == 0 && cache.stats().plans == 0);
}

void a_pinned_plan_and_one_in_use_outlive_their_eviction() {
  cache.limit(1);
  const auto pinned = cache.get(problem(1)), used = cache.get(problem(2));
  pinned->pinned = true;
  for (int64_t m = 3; m < 9; ++m) cache.get(problem(m));
  EXPECT(alive == 3);
  launch(*used, 0);
  launch(*pinned, 0);
}

void what_cannot_be_waited_for_is_forgotten_but_not_destroyed() {
  launch(*cache.get(problem(1)), 0);
  synchronize_status = 900;
  try {
    cache.clear(true);
    EXPECT(false);
  } catch (const std::runtime_error& error) {
    EXPECT(std::strstr(error.what(), "a CUDA graph is being captured"));
  }
  EXPECT(alive == 1 && cache.stats().plans == 0);
  cache.get(problem(1));
  cache.clear(false);
  EXPECT(alive == 2);  // after a device reset the library isn't called
}

void a_failure_has_a_reason_and_does_not_repeat_at_once() {
  EXPECT(!cache.attempt(problem(1, 99)));
  EXPECT(cache.failure(problem(1, 99)) == "MatmulPlanInit failed: made up");
  EXPECT(cache.failure(problem(1)).empty());
  cache.request(problem(1, 99));
  EXPECT(!cache.pending(problem(1, 99)));
  cache.request(problem(2, 100));
  cache.wait();
  EXPECT(cache.failure(problem(2, 100)).find("not below 100") != std::string::npos && cache.stats().failed == 2);
  cache.clear(true);
  EXPECT(cache.stats().failed == 0);
}

void a_dtype_is_slow_once_a_plan_of_it_took_long() {
  EXPECT(!cache.slow(ScalarType::BFloat16) && cache.slow(ScalarType::Half) && cache.slow(ScalarType::Char));
  cache.get(problem(1, 50));
  EXPECT(cache.slow(ScalarType::BFloat16));
  cache.get(problem(1, 0, ScalarType::Half));
  EXPECT(!cache.slow(ScalarType::Half));
}

// Eight threads launch on four streams while plans come, go and finish; workers build some of them.
void threads_never_meet_a_destroyed_plan_or_a_foreign_bias() {
  cache.limit(8);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([t] {
      unsigned random = 12345 + t;
      for (int i = 0; i < 4000; ++i) {
        random = random * 1664525 + 1013904223;
        const Problem p = problem(random >> 20 & 15);
        if (i % 7 == 0) cache.request(p);
        launch(*cache.get(p), i % 4);
        if (i % 50 == t) advance();
      }
    });
  for (auto& thread : threads) thread.join();
  cache.wait();
  EXPECT(cache.stats().plans <= 8 && cache.stats().evicted > 100);
  cache.clear(true);
  EXPECT(alive == 0);
}

void a_forked_child_ends_without_the_workers_that_it_does_not_have() {
  for (int64_t m = 1; m < 6; ++m) cache.request(problem(m, 50));
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    cache.wait();
    cache.request(problem(9));
    cache.stats();
    std::exit(3);  // runs what is registered for the end of a process
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 3);
  cache.wait();
  EXPECT(cache.stats().plans == 5);
}

void a_process_ends_while_workers_build() {
  for (int64_t m = 1; m < 200; ++m) cache.request(problem(m, 50));
}

}  // namespace

int main(int, char** arguments) {
#define CASE(name) \
  if (std::string(#name) == arguments[1]) return name(), 0
  CASE(plans_beyond_half_of_the_cache_are_destroyed_when_their_launches_are_done);
  CASE(a_pinned_plan_and_one_in_use_outlive_their_eviction);
  CASE(what_cannot_be_waited_for_is_forgotten_but_not_destroyed);
  CASE(a_failure_has_a_reason_and_does_not_repeat_at_once);
  CASE(a_dtype_is_slow_once_a_plan_of_it_took_long);
  CASE(threads_never_meet_a_destroyed_plan_or_a_foreign_bias);
  CASE(a_forked_child_ends_without_the_workers_that_it_does_not_have);
  CASE(a_process_ends_while_workers_build);
  return 2;
}
