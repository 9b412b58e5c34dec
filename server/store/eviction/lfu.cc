#include "server/store/eviction/lfu.h"

#include <algorithm>

namespace infercache::store {

LfuPolicy::LfuPolicy(PolicyNode* nodes) : nodes_(nodes) {
  lists_.reserve(kLists);
  for (uint32_t i = 0; i < kLists; ++i) lists_.emplace_back(nodes, static_cast<uint8_t>(i + 1));
}

void LfuPolicy::Insert(uint32_t record, const Use& use) {
  PolicyNode& node = nodes_[record];
  node.uses = 1;
  // No better than what it is of use with.
  node.group = use.anchor == 0 ? floor_ + 1 : std::min(floor_ + 1, nodes_[use.anchor].group);
  ListOf(node.group).InsertBehind(use.anchor, record);
}

void LfuPolicy::Touch(uint32_t record, const Use& use) {
  PolicyNode& node = nodes_[record];
  RecordList& before = ListOf(node.group);
  if (use.repeat) return before.MoveToNewest(record);
  before.Remove(record);
  node.uses = static_cast<uint8_t>(std::min<uint32_t>(node.uses + 1, kMostUses));
  node.group = floor_ + node.uses;
  ListOf(node.group).PushNewest(record);
}

void LfuPolicy::Remove(uint32_t record, const Departure& departure) {
  const uint32_t priority = nodes_[record].group;
  ListOf(priority).Remove(record);
  // A neighbour of a victim may go before its turn: that says nothing about the others.
  if (!departure.evicted) return;
  for (uint32_t p = floor_; p < priority; ++p) {
    if (ListOf(p).size() != 0) return;
  }
  floor_ = priority;
}

uint32_t LfuPolicy::Victim(uint64_t, MayGo may_go) {
  for (uint32_t i = 0; i < kLists; ++i) {
    if (const uint32_t victim = ListOf(floor_ + i).OldestThatMayGo(may_go); victim != 0) {
      return victim;
    }
  }
  return 0;
}

}  // namespace infercache::store
