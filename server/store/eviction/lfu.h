// Least frequently used, with ageing: a record's priority is its number of uses plus the priority
// of the last victim when it was last used. Who was popular long ago sinks below who is used now.
//
// A record counts at most kMostUses uses and the floor only rises, so that all priorities lie in a
// window of fewer than kLists: one list for each, and no heap.

#pragma once

#include <vector>

#include "server/store/eviction/policy.h"
#include "server/store/eviction/record_list.h"

namespace infercache::store {

class LfuPolicy final : public Policy {
 public:
  explicit LfuPolicy(PolicyNode* nodes);

  void Insert(uint32_t record, const Use& use) override;
  void Touch(uint32_t record, const Use& use) override;
  void Remove(uint32_t record, const Departure& departure) override;
  uint32_t Victim(uint64_t now_ms, MayGo may_go) override;
  size_t memory_bytes() const override { return sizeof *this + kLists * sizeof(RecordList); }

 private:
  static constexpr uint32_t kMostUses = 200;
  static constexpr uint32_t kLists = 254;  // more than kMostUses; numbers of lists are 1..255

  RecordList& ListOf(uint32_t priority) { return lists_[priority % kLists]; }

  PolicyNode* const nodes_;
  std::vector<RecordList> lists_;  // of priority p: number p % kLists; in each the newest first
  uint32_t floor_ = 0;             // no member has less
};

}  // namespace infercache::store
