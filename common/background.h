// A few threads for work that takes too long for the threads that serve everybody: gRPC's, of which
// there may be only two, and the same-host lane's.

#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace infercache {

// Thread-safe.
class Background {
 public:
  explicit Background(int threads);
  // Drops what is queued, and waits for what has begun.
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // Tasks start in this order, as many at a time as there are threads.
  void Post(std::function<void()> task) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mu_);
  // The next one, once there is one. Empty: there will be none.
  std::function<void()> Take() ABSL_LOCKS_EXCLUDED(mu_);

  Mutex mu_;
  CondVar changed_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace infercache
