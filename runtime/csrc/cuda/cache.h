// Every plan of this process: bounded, shared by threads, streams and devices, filled ahead by worker threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
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

  // Has a worker build the plan, unless it is there, under way or known to fail.
  void request(const Problem& problem);

  // Until no worker has anything to do.
  void wait();

  // Forgets every plan. Call it with no CUDA graph left that holds one; `destroy` false after a device reset.
  void clear(bool destroy);

  void limit(size_t plans);
  Stats stats();
  std::string failures();

 private:
  PlanCache() = default;
  void work();
  void stop();
  std::shared_ptr<Plan> build(const Problem& problem);
  std::shared_ptr<Plan> insert(const Problem& problem, std::shared_ptr<Plan> plan);
  std::shared_ptr<Plan> take_oldest(const Problem& except);
  void retire(std::shared_ptr<Plan> plan);

  std::shared_mutex plans_mutex_;
  std::unordered_map<Problem, std::shared_ptr<Plan>, ProblemHash> plans_;
  std::vector<std::shared_ptr<Plan>> retired_;  // out of the cache, their kernels perhaps still running
  size_t limit_ = 16384;
  std::atomic<uint64_t> clock_{0}, hits_{0}, built_{0}, evicted_{0};

  std::mutex work_mutex_;
  std::condition_variable work_ready_, work_done_;
  std::deque<Problem> queue_;
  std::unordered_set<Problem, ProblemHash> pending_;
  std::unordered_map<Problem, std::string, ProblemHash> failed_;
  std::vector<std::thread> workers_;
  bool stopping_ = false;
};

}  // namespace sparseflow::cuda
