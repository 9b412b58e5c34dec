// Where the daemon stands between start and exit. Thread-safe.

#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace infercache::server {

class Lifecycle {
 public:
  enum class State { kStarting, kServing, kDraining };

  State state() const {
    MutexLock lock(&mu_);
    return state_;
  }

  // Unless a stop was requested meanwhile.
  void SetServing() {
    MutexLock lock(&mu_);
    if (state_ == State::kStarting) state_ = State::kServing;
  }

  // The first request counts; `why` goes to the log. Returns false for later ones.
  bool RequestStop(std::string_view why) {
    MutexLock lock(&mu_);
    if (state_ == State::kDraining) return false;
    state_ = State::kDraining;
    why_ = std::string(why);
    stopped_.SignalAll();
    return true;
  }

  bool stopping() const { return state() == State::kDraining; }

  // Waits for as long, or until a stop is requested: then true.
  bool WaitForStop(std::chrono::milliseconds time) {
    const auto deadline = std::chrono::steady_clock::now() + time;
    MutexLock lock(&mu_);
    while (state_ != State::kDraining) {
      if (!stopped_.WaitUntil(&mu_, deadline)) break;
    }
    return state_ == State::kDraining;
  }

  // Whatever hangs, the process shall end then.
  void EndBy(std::chrono::steady_clock::time_point time) {
    MutexLock lock(&mu_);
    end_by_ = time;
  }
  bool Overdue(std::chrono::steady_clock::time_point now) const {
    MutexLock lock(&mu_);
    return now > end_by_;
  }

  // Returns why.
  std::string WaitForStop() {
    MutexLock lock(&mu_);
    while (state_ != State::kDraining) stopped_.Wait(&mu_);
    return why_;
  }

 private:
  mutable Mutex mu_;
  CondVar stopped_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kStarting;
  std::chrono::steady_clock::time_point end_by_ ABSL_GUARDED_BY(mu_) =
      std::chrono::steady_clock::time_point::max();
  std::string why_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache::server
