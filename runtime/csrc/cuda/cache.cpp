#include "cache.h"

#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <cstdlib>

#include "driver.h"

namespace sparseflow::cuda {

PlanCache& PlanCache::instance() {
  // Never destroyed: at exit the driver may be gone before a destructor runs. Workers are stopped, though.
  static PlanCache* cache = [] {
    static PlanCache* made = new PlanCache;
    std::atexit([] { made->stop(); });
    return made;
  }();
  return *cache;
}

std::shared_ptr<Plan> PlanCache::find(const Problem& problem) {
  std::shared_lock lock(plans_mutex_);
  const auto at = plans_.find(problem);
  if (at == plans_.end()) return nullptr;
  at->second->last_used.store(clock_.fetch_add(1, std::memory_order_relaxed), std::memory_order_relaxed);
  hits_.fetch_add(1, std::memory_order_relaxed);
  return at->second;
}

std::shared_ptr<Plan> PlanCache::get(const Problem& problem) {
  if (auto plan = find(problem)) return plan;
  return build(problem);
}

std::shared_ptr<Plan> PlanCache::build(const Problem& problem) {
  torch::stable::accelerator::DeviceGuard guard(problem.device);
  auto plan = std::make_shared<Plan>(problem);
  built_.fetch_add(1, std::memory_order_relaxed);
  plan->last_used.store(clock_.fetch_add(1));
  return insert(problem, std::move(plan));
}

// Another thread may have been faster: its plan stays.
std::shared_ptr<Plan> PlanCache::insert(const Problem& problem, std::shared_ptr<Plan> plan) {
  std::lock_guard lock(plans_mutex_);
  auto kept = plans_.try_emplace(problem, std::move(plan)).first->second;
  if (plans_.size() > limit_)
    if (auto oldest = take_oldest(problem)) retire(std::move(oldest));
  return kept;
}

std::shared_ptr<Plan> PlanCache::take_oldest(const Problem& except) {
  auto oldest = plans_.end();
  for (auto at = plans_.begin(); at != plans_.end(); ++at)
    if (!at->second->pinned && !(at->first == except) &&
        (oldest == plans_.end() || at->second->last_used < oldest->second->last_used))
      oldest = at;
  if (oldest == plans_.end()) return nullptr;
  auto plan = std::move(oldest->second);
  plans_.erase(oldest);
  return plan;
}

// Destroying a plan may unload its kernel, so it waits until no thread and no device uses it; now and then, because
// waiting for a device is dear.
void PlanCache::retire(std::shared_ptr<Plan> plan) {
  evicted_.fetch_add(1, std::memory_order_relaxed);
  retired_.push_back(std::move(plan));
  if (retired_.size() < 64) return;
  std::erase_if(retired_, [](const auto& p) { return p.use_count() == 1 && !p->pinned && p->idle(); });
}

void PlanCache::request(const Problem& problem) {
  if (find(problem)) return;
  std::lock_guard lock(work_mutex_);
  if (stopping_ || pending_.contains(problem) || failed_.contains(problem)) return;
  pending_.insert(problem);
  queue_.push_back(problem);
  const size_t most = std::clamp(std::thread::hardware_concurrency(), 1u, 16u);
  if (workers_.size() < most && workers_.size() < pending_.size()) workers_.emplace_back([this] { work(); });
  work_ready_.notify_one();
}

void PlanCache::work() {
  // Loading a kernel must not break a capture that another thread has under way.
  int relaxed = 2;
  driver().exchange_capture_mode(&relaxed);
  std::unique_lock lock(work_mutex_);
  while (true) {
    work_ready_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const Problem problem = queue_.front();
    queue_.pop_front();
    lock.unlock();
    std::string why;
    try {
      get(problem);
    } catch (const std::exception& error) {
      why = error.what();
    }
    lock.lock();
    pending_.erase(problem);
    if (!why.empty()) failed_.emplace(problem, why);
    if (pending_.empty()) work_done_.notify_all();
  }
}

void PlanCache::wait() {
  std::unique_lock lock(work_mutex_);
  work_done_.wait(lock, [this] { return stopping_ || pending_.empty(); });
}

void PlanCache::stop() {
  std::vector<std::thread> workers;
  {
    std::lock_guard lock(work_mutex_);
    stopping_ = true;
    workers.swap(workers_);
  }
  work_ready_.notify_all();
  work_done_.notify_all();
  for (std::thread& worker : workers) worker.join();
}

void PlanCache::clear(bool destroy) {
  wait();
  std::vector<std::shared_ptr<Plan>> dropped;
  {
    std::lock_guard lock(plans_mutex_);
    dropped.swap(retired_);
    for (auto& [problem, plan] : plans_) dropped.push_back(std::move(plan));
    plans_.clear();
  }
  for (auto& plan : dropped) destroy ? void(plan->idle()) : plan->abandon();
  dropped.clear();
  std::lock_guard lock(work_mutex_);
  failed_.clear();
}

void PlanCache::limit(size_t plans) {
  std::lock_guard lock(plans_mutex_);
  limit_ = std::max<size_t>(plans, 1);
}

PlanCache::Stats PlanCache::stats() {
  Stats s{};
  {
    std::shared_lock lock(plans_mutex_);
    s.plans = static_cast<int64_t>(plans_.size());
    for (const auto& [problem, plan] : plans_) s.pinned += plan->pinned;
  }
  std::lock_guard lock(work_mutex_);
  s.pending = static_cast<int64_t>(pending_.size());
  s.failed = static_cast<int64_t>(failed_.size());
  s.hits = static_cast<int64_t>(hits_);
  s.built = static_cast<int64_t>(built_);
  s.evicted = static_cast<int64_t>(evicted_);
  return s;
}

std::string PlanCache::failures() {
  std::lock_guard lock(work_mutex_);
  std::string text;
  for (const auto& [problem, why] : failed_)
    text += "N=" + std::to_string(problem.n) + " K=" + std::to_string(problem.k) + " M=" + std::to_string(problem.m) +
            " algorithm " + std::to_string(problem.algorithm) + ": " + why + "\n";
  return text;
}

}  // namespace sparseflow::cuda
