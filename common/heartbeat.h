// Signs of life: which of a process's long-lived threads have gone quiet.

#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace infercache {

// Of one thread, which beats often: a few nanoseconds. It is watched as long as somebody has it.
class Heartbeat {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Heartbeat(std::string name) : name_(std::move(name)) {}
  void Beat(Clock::time_point now = Clock::now()) {
    last_.store(now.time_since_epoch().count(), std::memory_order_relaxed);
  }

  const std::string& name() const { return name_; }
  Clock::time_point last() const {
    return Clock::time_point(Clock::duration(last_.load(std::memory_order_relaxed)));
  }

 private:
  const std::string name_;
  std::atomic<Clock::rep> last_{Clock::now().time_since_epoch().count()};
};

// Thread-safe.
class Heartbeats {
 public:
  std::shared_ptr<Heartbeat> Add(std::string name) ABSL_LOCKS_EXCLUDED(mu_);
  // The names of those that have not beaten for longer than `silence`, in order of their coming.
  std::vector<std::string> Silent(Heartbeat::Clock::duration silence,
                                  Heartbeat::Clock::time_point now = Heartbeat::Clock::now()) const
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  mutable Mutex mu_;
  std::vector<std::weak_ptr<Heartbeat>> all_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache
