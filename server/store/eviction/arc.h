// ARC (Megiddo and Modha, FAST 2003): two LRU lists, of objects used once and more often, each with
// ghosts. A hit in a list's ghosts says that this list should have been longer; the target follows.

#pragma once

#include "server/store/eviction/ghosts.h"
#include "server/store/eviction/policy.h"
#include "server/store/eviction/record_list.h"

namespace infercache::store {

class ArcPolicy final : public Policy {
 public:
  explicit ArcPolicy(PolicyNode* nodes) : once_(nodes, 1), often_(nodes, 2) {}

  void Insert(uint32_t record, const Use& use) override;
  void Touch(uint32_t record, const Use& use) override;
  void Remove(uint32_t record, const Departure& departure) override;
  uint32_t Victim(uint64_t now_ms, MayGo may_go) override;
  size_t memory_bytes() const override {
    return once_ghosts_.memory_bytes() + often_ghosts_.memory_bytes();
  }

 private:
  void TrimGhosts();

  RecordList once_, often_;
  GhostTable once_ghosts_, often_ghosts_;
  double target_ = 0;  // of once_.size()
};

}  // namespace infercache::store
