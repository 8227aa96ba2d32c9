// The cache of plans: bounded, shared by the threads, streams and devices of this process, filled by worker threads.
//
// A plan may be destroyed only once none of its kernels runs, and no call may wait for that, because waiting for a
// device breaks the capture of a CUDA graph in any other thread. The plans of the first half of the cache are therefore
// never destroyed. Later ones record an event after each launch (plan.h); an evicted one is destroyed once its events
// passed.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <shared_mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "plan.h"

namespace sparseflow::cuda {

class PlanCache {
 public:
  static PlanCache& instance();

  struct Stats {
    int64_t plans, pinned, pending, failed, hits, built, evicted;
  };

  // Returns the plan, or null if it isn't cached.
  std::shared_ptr<Plan> find(const Problem& problem);

  // Returns the plan, and builds it if it isn't cached; throws if building fails.
  std::shared_ptr<Plan> get(const Problem& problem);

  // As get(), but returns null if building fails; failure() then has the reason.
  std::shared_ptr<Plan> attempt(const Problem& problem);

  // Has a worker build the plan, unless it is cached, being built, or failed recently. `serving` says that other calls
  // run meanwhile: loading a kernel holds a lock of the driver that launches need, so only a few are then built at a
  // time.
  void request(const Problem& problem, bool serving = false);

  // Whether building a plan of this dtype takes longer than a call should wait, as measured on the last one.
  bool slow(ScalarType in) const { return slow_[static_cast<size_t>(in) % slow_.size()]; }

  // Whether a worker is building the plan or will.
  bool pending(const Problem& problem);

  // Returns why building the plan failed, or "" if it didn't, or may be tried again by now.
  std::string failure(const Problem& problem);

  // Waits until all workers are idle.
  void wait();

  // Drops every plan; no CUDA graph may use one any more. Pass `destroy` = false after a device reset. Throws if a
  // device can't be waited for; the plans are then dropped all the same, but not destroyed.
  void clear(bool destroy);

  // Sets the size of the cache, for plans built from now on.
  void limit(size_t plans);
  Stats stats();
  std::string failures();

 private:
  using Clock = std::chrono::steady_clock;
  struct Failure {
    std::string why;
    Clock::time_point retry;  // when to try again: a lack of memory, for example, may have passed
  };
  using Plans = std::vector<std::shared_ptr<Plan>>;

  PlanCache();
  void work();
  void stop();
  void in_forked_child();
  std::shared_ptr<Plan> build(const Problem& problem);
  std::shared_ptr<Plan> insert(const Problem& problem, std::shared_ptr<Plan> plan);
  void evict(const Problem& except);
  Plans take_idle();
  void fail(const Problem& problem, const std::string& why);

  std::shared_mutex plans_mutex_;
  std::unordered_map<Problem, std::shared_ptr<Plan>, ProblemHash> plans_;
  Plans retired_;  // evicted, but their kernels may still run
  size_t limit_ = 16384, lasting_ = 0;  // lasting_: the number of plans_ that aren't tracked
  std::atomic<uint64_t> clock_{0}, hits_{0}, built_{0}, evicted_{0};
  std::array<std::atomic<bool>, 64> slow_;  // by dtype

  std::mutex work_mutex_;
  std::condition_variable work_ready_, work_done_;
  std::deque<Problem> queue_, serving_;
  int serving_now_ = 0;  // of serving_, being built
  std::unordered_set<Problem, ProblemHash> pending_;
  std::unordered_map<Problem, Failure, ProblemHash> failed_;
  std::vector<std::thread> workers_;
  bool stopping_ = false;
};

}  // namespace sparseflow::cuda
