// First in, first out: uses change nothing.

#pragma once

#include "server/store/eviction/policy.h"
#include "server/store/eviction/record_list.h"

namespace infercache::store {

class FifoPolicy : public Policy {
 public:
  explicit FifoPolicy(PolicyNode* nodes) : list_(nodes, 1) {}

  void Insert(uint32_t record, const Use& use) override { list_.InsertBehind(use.anchor, record); }
  void Touch(uint32_t, const Use&) override {}
  void Remove(uint32_t record, const Departure&) override { list_.Remove(record); }
  uint32_t Victim(uint64_t, MayGo may_go) override { return list_.OldestThatMayGo(may_go); }
  size_t memory_bytes() const override { return 0; }

 protected:
  RecordList list_;
};

}  // namespace infercache::store
