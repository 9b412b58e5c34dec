// A few threads for work that takes too long for gRPC's callback threads, of which there may be
// only two.

#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace infercache::rpc {

// Thread-safe.
class Background {
 public:
  explicit Background(int threads);
  // Runs what is queued, then returns.
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // Tasks start in this order, as many at a time as there are threads.
  void Post(std::function<void()> task);

 private:
  void Run();

  absl::Mutex mu_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace infercache::rpc
