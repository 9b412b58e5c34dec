#include "client/python/ext/fork_epoch.h"

#include <pthread.h>

#include <atomic>
#include <stdexcept>

namespace infercache::python {
namespace {

// Static because a fork handler has no argument.
std::atomic<uint64_t> epoch{1};

}  // namespace

void WatchForks() {
  const auto count = [] { epoch.fetch_add(1, std::memory_order_relaxed); };
  if (pthread_atfork(nullptr, nullptr, count) != 0) {
    throw std::runtime_error("pthread_atfork: out of memory");
  }
}

uint64_t ForkEpoch() { return epoch.load(std::memory_order_relaxed); }

}  // namespace infercache::python
