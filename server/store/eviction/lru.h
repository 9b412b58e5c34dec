// Least recently used. With a request's blocks told from the last to the first, and new blocks put
// behind their chain, the oldest is always a leaf of the tree of prefixes.

#pragma once

#include "server/store/eviction/policy.h"
#include "server/store/eviction/record_list.h"

namespace infercache::store {

class LruPolicy final : public Policy {
 public:
  explicit LruPolicy(PolicyNode* nodes) : list_(nodes, 1) {}

  void Insert(uint32_t record, const Use& use) override { list_.InsertBehind(use.anchor, record); }
  void Touch(uint32_t record, const Use&) override { list_.MoveToNewest(record); }
  void Remove(uint32_t record, const Departure&) override { list_.Remove(record); }
  uint32_t Victim(uint64_t, MayGo may_go) override { return list_.OldestThatMayGo(may_go); }
  void ForEachFromWorst(absl::FunctionRef<void(uint32_t)> f) const override {
    list_.ForEachFromOldest(f);
  }
  size_t memory_bytes() const override { return 0; }

 private:
  RecordList list_;
};

}  // namespace infercache::store
