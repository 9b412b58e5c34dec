// Least recently used: one shard's list of visible records, newest first. It names the victim, the
// namespace frees it. The links lie in the records' states, so membership costs no memory of its
// own.
//
// Not thread-safe: guarded by the shard's lock.

#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

#include "server/store/record_state.h"
#include "server/store/space.h"

namespace infercache::store {

class LruList {
 public:
  static constexpr uint64_t kEmpty = std::numeric_limits<uint64_t>::max();

  // Publishes the oldest record's stamp, kEmpty if there is none, so that shards can be compared
  // without their locks. Both references outlive the list.
  LruList(const Space& space, std::atomic<uint64_t>& oldest_stamp)
      : space_(space), oldest_stamp_(oldest_stamp) {}

  // Makes `record`, which is in no list, the newest. REQUIRES: `stamp` is higher than any before.
  void Insert(uint32_t record, uint64_t stamp) {
    RecordState& state = space_.state(record);
    state.stamp.store(stamp, std::memory_order_relaxed);
    state.lru_newer = 0;
    state.lru_older = newest_;
    (newest_ != 0 ? space_.state(newest_).lru_newer : oldest_) = record;
    newest_ = record;
    PublishOldest();
  }

  void Remove(uint32_t record) {
    const RecordState& state = space_.state(record);
    (state.lru_newer != 0 ? space_.state(state.lru_newer).lru_older : newest_) = state.lru_older;
    (state.lru_older != 0 ? space_.state(state.lru_older).lru_newer : oldest_) = state.lru_newer;
    PublishOldest();
  }

  void Touch(uint32_t record, uint64_t stamp) {
    Remove(record);
    Insert(record, stamp);
  }

  // The victim; 0 = the list is empty.
  uint32_t oldest() const { return oldest_; }

 private:
  void PublishOldest() {
    oldest_stamp_.store(
        oldest_ == 0 ? kEmpty : space_.state(oldest_).stamp.load(std::memory_order_relaxed),
        std::memory_order_relaxed);
  }

  const Space& space_;
  std::atomic<uint64_t>& oldest_stamp_;
  uint32_t newest_ = 0;
  uint32_t oldest_ = 0;
};

}  // namespace infercache::store
