// A list of records, newest first, whose links lie in the policy's nodes. A record is in one list
// at a time, whose number its node bears.
//
// Not thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>

#include "server/store/eviction/policy.h"

namespace infercache::store {

class RecordList {
 public:
  // `number` is not 0, and no other list of the policy has it. `nodes` outlives the list.
  RecordList(PolicyNode* nodes, uint8_t number) : nodes_(nodes), number_(number) {}

  uint32_t newest() const { return newest_; }
  uint32_t oldest() const { return oldest_; }
  size_t size() const { return size_; }
  bool Holds(uint32_t record) const { return record != 0 && nodes_[record].list == number_; }

  void PushNewest(uint32_t record) { InsertBetween(0, newest_, record); }
  void PushOldest(uint32_t record) { InsertBetween(oldest_, 0, record); }
  // Just older than `anchor` if this list holds it, else the newest.
  void InsertBehind(uint32_t anchor, uint32_t record) {
    if (Holds(anchor)) {
      InsertBetween(anchor, nodes_[anchor].older, record);
    } else {
      PushNewest(record);
    }
  }
  // REQUIRES: Holds(record).
  void Remove(uint32_t record) {
    PolicyNode& node = nodes_[record];
    (node.newer != 0 ? nodes_[node.newer].older : newest_) = node.older;
    (node.older != 0 ? nodes_[node.older].newer : oldest_) = node.newer;
    node.newer = node.older = 0;
    node.list = 0;
    --size_;
  }
  void MoveToNewest(uint32_t record) {
    if (record == newest_) return;
    Remove(record);
    PushNewest(record);
  }

  // The oldest that may go, 0 if there is none; those before it become the newest.
  uint32_t OldestThatMayGo(Policy::MayGo may_go) {
    for (size_t left = size_; left > 0; --left) {
      if (may_go(oldest_)) return oldest_;
      MoveToNewest(oldest_);
    }
    return 0;
  }

 private:
  void InsertBetween(uint32_t newer, uint32_t older, uint32_t record) {
    PolicyNode& node = nodes_[record];
    node.newer = newer;
    node.older = older;
    node.list = number_;
    (newer != 0 ? nodes_[newer].older : newest_) = record;
    (older != 0 ? nodes_[older].newer : oldest_) = record;
    ++size_;
  }

  PolicyNode* const nodes_;
  const uint8_t number_;
  uint32_t newest_ = 0;
  uint32_t oldest_ = 0;
  size_t size_ = 0;
};

}  // namespace infercache::store
