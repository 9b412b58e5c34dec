// S3-FIFO (Yang et al., SOSP 2023): new objects go through a small queue, a tenth of what is there;
// who is used while in it moves to the main queue, who is not is forgotten but for its ghost. The
// main queue gives one more round for each use, up to three.

#pragma once

#include "server/store/eviction/ghosts.h"
#include "server/store/eviction/policy.h"
#include "server/store/eviction/record_list.h"

namespace infercache::store {

class S3FifoPolicy final : public Policy {
 public:
  explicit S3FifoPolicy(PolicyNode* nodes) : nodes_(nodes), small_(nodes, 1), main_(nodes, 2) {}

  void Insert(uint32_t record, const Use& use) override;
  void Touch(uint32_t record, const Use& use) override;
  void Remove(uint32_t record, const Departure& departure) override;
  uint32_t Victim(uint64_t now_ms, MayGo may_go) override;
  size_t memory_bytes() const override { return ghosts_.memory_bytes(); }

 private:
  size_t SmallShare() const { return (small_.size() + main_.size()) / 10; }
  uint32_t SmallVictim(MayGo may_go);
  uint32_t MainVictim(MayGo may_go);

  PolicyNode* const nodes_;
  RecordList small_, main_;
  GhostTable ghosts_;  // of small_; as many as main_ has members
};

}  // namespace infercache::store
