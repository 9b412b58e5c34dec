// At most one line a second of what others can make happen as often as they like.

#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace infercache::local {

// Thread-safe.
class Throttle {
 public:
  using Clock = std::chrono::steady_clock;

  // Of one event: nullopt = no line for it, else how many had none since the last line.
  std::optional<uint64_t> Take(Clock::time_point now = Clock::now()) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    if (last_ && now - *last_ < std::chrono::seconds(1)) {
      ++untold_;
      return std::nullopt;
    }
    last_ = now;
    return std::exchange(untold_, 0);
  }

 private:
  Mutex mu_;
  std::optional<Clock::time_point> last_ ABSL_GUARDED_BY(mu_);
  uint64_t untold_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace infercache::local
