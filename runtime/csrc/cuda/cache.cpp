#include "cache.h"

#include <pthread.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <set>
#include <stdexcept>
#include <system_error>

#include "driver.h"

namespace sparseflow::cuda {
namespace {

using torch::stable::accelerator::DeviceGuard;

constexpr auto kRetryAfter = std::chrono::seconds(60);
constexpr int kMostWhileServing = 1;
constexpr auto kSlowFrom = std::chrono::milliseconds(2);

// Waits for the devices of `plans`; returns why that failed, or "".
std::string settle(const std::vector<std::shared_ptr<Plan>>& plans) {
  std::set<int> devices;
  for (const auto& plan : plans) {
    while (plan.use_count() > 1) std::this_thread::yield();  // another thread is launching it
    devices.insert(plan->device());
  }
  for (int device : devices) {
    const DeviceGuard guard(device);
    if (driver().synchronize() != 0)
      return "CUDA device " + std::to_string(device) +
             " can't be waited for: a CUDA graph is being captured, this thread hasn't used the device yet, or the device was "
             "reset and this wasn't told so";
  }
  return "";
}

void destroy(std::vector<std::shared_ptr<Plan>>& plans) {
  for (auto& plan : plans) {
    const DeviceGuard guard(plan->device());
    plan.reset();
  }
  plans.clear();
}

}  // namespace

PlanCache::PlanCache() {
  // Building was measured to be fast (0.6 ms) only for bf16; the first plan of each dtype tells.
  for (auto& slow : slow_) slow = true;
  slow_[static_cast<size_t>(ScalarType::BFloat16)] = false;
}

PlanCache& PlanCache::instance() {
  // Never destroyed, because at exit the driver may be gone before a destructor runs; the workers are stopped.
  static PlanCache* cache = [] {
    static PlanCache* made = new PlanCache;
    std::atexit([] { made->stop(); });
    const auto unlock = [] {
      made->plans_mutex_.unlock();
      made->work_mutex_.unlock();
    };
    pthread_atfork(
        [] {
          made->work_mutex_.lock();
          made->plans_mutex_.lock();
        },
        unlock, [] { made->in_forked_child(); });
    return made;
  }();
  return *cache;
}

// The workers exist only in the parent, so they must not be joined, destroyed or woken here. The locks are held by this
// thread, but under its id in the parent, so they are constructed anew.
void PlanCache::in_forked_child() {
  [[maybe_unused]] static auto* never_destroyed = new std::vector<std::thread>(std::move(workers_));
  workers_.clear();
  queue_.clear();
  serving_.clear();
  serving_now_ = 0;
  pending_.clear();
  stopping_ = true;
  new (&plans_mutex_) std::shared_mutex;
  new (&work_mutex_) std::mutex;
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

std::shared_ptr<Plan> PlanCache::attempt(const Problem& problem) {
  try {
    return get(problem);
  } catch (const std::exception& error) {
    fail(problem, error.what());
  } catch (...) {
    fail(problem, "an exception of unknown kind");
  }
  return nullptr;
}

void PlanCache::fail(const Problem& problem, const std::string& why) {
  std::lock_guard lock(work_mutex_);
  failed_[problem] = {why, Clock::now() + kRetryAfter};
}

std::shared_ptr<Plan> PlanCache::build(const Problem& problem) {
  const DeviceGuard guard(problem.device);
  const Relaxed relaxed;
  handle_of(problem.device);  // first, so that it isn't counted as the plan's time
  const auto start = Clock::now();
  auto plan = std::make_shared<Plan>(problem);
  slow_[static_cast<size_t>(problem.in) % slow_.size()] = Clock::now() - start > kSlowFrom;
  built_.fetch_add(1, std::memory_order_relaxed);
  plan->last_used.store(clock_.fetch_add(1));
  {
    std::lock_guard lock(work_mutex_);
    failed_.erase(problem);
  }
  return insert(problem, std::move(plan));
}

// If another thread has inserted the plan meanwhile, that one stays.
std::shared_ptr<Plan> PlanCache::insert(const Problem& problem, std::shared_ptr<Plan> plan) {
  std::shared_ptr<Plan> kept;
  Plans dead;
  {
    std::lock_guard lock(plans_mutex_);
    const auto [at, is_new] = plans_.try_emplace(problem, std::move(plan));
    kept = at->second;
    if (is_new) {
      kept->tracked = lasting_ >= limit_ / 2;
      lasting_ += !kept->tracked;
    }
    if (plans_.size() > limit_) evict(problem);
    dead = take_idle();
  }
  destroy(dead);
  return kept;
}

// Evicts the least recently used of the tracked plans.
void PlanCache::evict(const Problem& except) {
  auto oldest = plans_.end();
  for (auto at = plans_.begin(); at != plans_.end(); ++at)
    if (at->second->tracked && !at->second->pinned && !(at->first == except) &&
        (oldest == plans_.end() || at->second->last_used < oldest->second->last_used))
      oldest = at;
  if (oldest == plans_.end()) return;
  retired_.push_back(std::move(oldest->second));
  plans_.erase(oldest);
  evicted_.fetch_add(1, std::memory_order_relaxed);
}

// Returns the evicted plans that are idle and that no thread holds, as that thread may still launch them.
PlanCache::Plans PlanCache::take_idle() {
  const auto idle = std::partition(retired_.begin(), retired_.end(),
                                   [](const auto& plan) { return plan.use_count() > 1 || !plan->idle(); });
  Plans dead(std::make_move_iterator(idle), std::make_move_iterator(retired_.end()));
  retired_.erase(idle, retired_.end());
  return dead;
}

void PlanCache::request(const Problem& problem, bool serving) {
  if (find(problem)) return;
  std::lock_guard lock(work_mutex_);
  const auto failed = failed_.find(problem);
  if (stopping_ || pending_.contains(problem) || (failed != failed_.end() && Clock::now() < failed->second.retry))
    return;
  pending_.insert(problem);
  std::deque<Problem>& queue = serving ? serving_ : queue_;
  queue.push_back(problem);
  const size_t most = std::clamp(std::thread::hardware_concurrency(), 1u, 16u);
  if (workers_.size() < most && workers_.size() < pending_.size()) {
    try {
      workers_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {
      if (workers_.empty()) {
        queue.pop_back();
        pending_.erase(problem);
        failed_[problem] = {std::string("no thread could be started: ") + error.what(), Clock::now() + kRetryAfter};
        return;
      }
    }
  }
  work_ready_.notify_one();
}

void PlanCache::work() {
  std::unique_lock lock(work_mutex_);
  while (true) {
    work_ready_.wait(lock, [this] {
      return stopping_ || !queue_.empty() || (!serving_.empty() && serving_now_ < kMostWhileServing);
    });
    if (stopping_) return;
    const bool serving = queue_.empty();
    std::deque<Problem>& queue = serving ? serving_ : queue_;
    const Problem problem = queue.front();
    queue.pop_front();
    serving_now_ += serving;
    lock.unlock();
    try {
      attempt(problem);
    } catch (...) {  // there is no memory for the reason; the next call requests the plan again
    }
    lock.lock();
    serving_now_ -= serving;
    if (!serving_.empty()) work_ready_.notify_one();
    pending_.erase(problem);
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
    if (stopping_) return;
    stopping_ = true;
    workers.swap(workers_);
  }
  work_ready_.notify_all();
  work_done_.notify_all();
  for (std::thread& worker : workers) worker.join();
}

void PlanCache::clear(bool destroy_them) {
  wait();
  Plans dropped;
  {
    std::lock_guard lock(plans_mutex_);
    dropped.swap(retired_);
    for (auto& [problem, plan] : plans_) dropped.push_back(std::move(plan));
    plans_.clear();
    lasting_ = 0;
  }
  {
    std::lock_guard lock(work_mutex_);
    failed_.clear();
  }
  const std::string trouble = destroy_them ? settle(dropped) : "";
  if (destroy_them && trouble.empty()) return destroy(dropped);
  for (auto& plan : dropped) plan->abandon();
  if (destroy_them) throw std::runtime_error("sparseflow::plans_reset: " + trouble);
}

bool PlanCache::pending(const Problem& problem) {
  std::lock_guard lock(work_mutex_);
  return pending_.contains(problem);
}

std::string PlanCache::failure(const Problem& problem) {
  std::lock_guard lock(work_mutex_);
  const auto at = failed_.find(problem);
  return at == failed_.end() || Clock::now() >= at->second.retry ? "" : at->second.why;
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
  for (const auto& [problem, failure] : failed_)
    text += "N=" + std::to_string(problem.n) + " K=" + std::to_string(problem.k) + " M=" + std::to_string(problem.m) +
            " algorithm " + std::to_string(problem.algorithm) + ": " + failure.why + "\n";
  return text;
}

}  // namespace sparseflow::cuda
