// Objects on their way from a tier down to host memory, from before they are no longer here until
// after they are there: who erases or replaces one meanwhile finds it in neither place.
//
// Thread-safe. Costs who erases or commits nothing while no object is on its way.

#pragma once

#include <atomic>
#include <cstddef>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "common/hash.h"
#include "common/mutex.h"

namespace infercache::store {

class Departures {
 public:
  // REQUIRES: the object is still here; it leaves under the lock of its shard.
  void Leaves(const Hash128& hash) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    ++leaving_[hash].objects;
    count_.store(leaving_.size(), std::memory_order_relaxed);
  }

  // What is on its way under this hash is not to stay where it arrives. True if there is something
  // that nobody had called back before. What has arrived already is the caller's to erase, after
  // this. REQUIRES: the caller has held the lock of its shard since it began: so either it saw the
  // object here, or this sees it leave.
  bool CallBack(const Hash128& hash) ABSL_LOCKS_EXCLUDED(mu_) {
    if (count_.load(std::memory_order_relaxed) == 0) return false;
    MutexLock lock(&mu_);
    const auto found = leaving_.find(hash);
    return found != leaving_.end() && !std::exchange(found->second.called_back, true);
  }

  // It is there, or never will be. True if it was called back: then it has to be erased there.
  bool Arrived(const Hash128& hash) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    const auto found = leaving_.find(hash);
    const bool called_back = found->second.called_back;
    if (--found->second.objects == 0) leaving_.erase(found);
    count_.store(leaving_.size(), std::memory_order_relaxed);
    return called_back;
  }

 private:
  struct Leaving {
    size_t objects = 0;  // one and what replaced it, before it left
    bool called_back = false;
  };
  struct KeyHash {
    size_t operator()(const Hash128& hash) const { return hash.lo; }
  };

  std::atomic<size_t> count_{0};  // of leaving_; ordered by the locks of the shards
  Mutex mu_;
  absl::flat_hash_map<Hash128, Leaving, KeyHash> leaving_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache::store
