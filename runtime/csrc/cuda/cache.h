// Every plan of this process: bounded, shared by threads, streams and devices, filled ahead by worker threads.
//
// A plan may be destroyed only when nothing runs its kernels, and no call may wait to find that out: waiting for a
// device breaks a CUDA graph's capture in any other thread. So the plans of the first half of the cache stay for good,
// and those after it record an event behind each launch (plan.h) and are destroyed, once evicted, when all have passed.
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

  // The plan, or null if it isn't there.
  std::shared_ptr<Plan> find(const Problem& problem);

  // The plan, built here if it isn't there; throws what building it throws.
  std::shared_ptr<Plan> get(const Problem& problem);

  // As get, but null where building it fails; failure() has the reason then.
  std::shared_ptr<Plan> attempt(const Problem& problem);

  // Has a worker build the plan, unless it is there, under way or failed lately. `serving`: other calls run meanwhile.
  // Loading a kernel holds a lock of the driver that launches wait for, so only a few of these are built at a time.
  void request(const Problem& problem, bool serving = false);

  // Whether building a plan of this dtype is more than a call should wait for: as the last one built showed.
  bool slow(ScalarType in) const { return slow_[static_cast<size_t>(in) % slow_.size()]; }

  // Whether a worker is building the plan, or is about to.
  bool pending(const Problem& problem);

  // Why building the plan failed, or "" if it didn't, or so long ago that it may be tried again.
  std::string failure(const Problem& problem);

  // Until no worker has anything to do.
  void wait();

  // Forgets every plan. Call it with no CUDA graph left that holds one; `destroy` false after a device reset. Throws
  // where a device can't be waited for; the plans are forgotten all the same, but not destroyed.
  void clear(bool destroy);

  // For plans built from now on.
  void limit(size_t plans);
  Stats stats();
  std::string failures();

 private:
  using Clock = std::chrono::steady_clock;
  struct Failure {
    std::string why;
    Clock::time_point retry;  // what failed for want of memory, say, may work then
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
  Plans retired_;  // out of the cache, their kernels perhaps still running
  size_t limit_ = 16384, lasting_ = 0;  // lasting_: of plans_, those that aren't tracked
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
