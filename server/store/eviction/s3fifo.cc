#include "server/store/eviction/s3fifo.h"

#include <algorithm>

namespace infercache::store {
namespace {

constexpr uint8_t kMostUses = 3;

}  // namespace

void S3FifoPolicy::Insert(uint32_t record, const Use& use) {
  RecordList& list = ghosts_.Take(use.hash).has_value() ? main_ : small_;
  list.InsertBehind(use.anchor, record);
}

void S3FifoPolicy::Touch(uint32_t record, const Use& use) {
  uint8_t& uses = nodes_[record].uses;
  if (!use.repeat) uses = std::min<uint8_t>(uses + 1, kMostUses);
}

void S3FifoPolicy::Remove(uint32_t record, const Departure& departure) {
  const bool was_small = small_.Holds(record);
  (was_small ? small_ : main_).Remove(record);
  if (!was_small || !departure.evicted) return;
  ghosts_.Add(departure.hash, {});
  while (ghosts_.size() > std::max<size_t>(main_.size(), 1)) ghosts_.TakeOldest();
}

uint32_t S3FifoPolicy::Victim(uint64_t, MayGo may_go) {
  const bool small_first = small_.size() >= std::max<size_t>(SmallShare(), 1) || main_.size() == 0;
  uint32_t victim = small_first ? SmallVictim(may_go) : MainVictim(may_go);
  if (victim == 0) victim = small_first ? MainVictim(may_go) : SmallVictim(may_go);
  return victim;
}

uint32_t S3FifoPolicy::SmallVictim(MayGo may_go) {
  for (size_t left = small_.size(); left > 0; --left) {
    const uint32_t record = small_.oldest();
    if (nodes_[record].uses > 0) {
      small_.Remove(record);
      nodes_[record].uses = 0;
      main_.PushNewest(record);
    } else if (may_go(record)) {
      return record;
    } else {
      small_.MoveToNewest(record);
    }
  }
  return 0;
}

uint32_t S3FifoPolicy::MainVictim(MayGo may_go) {
  // Everybody may be passed over once for each use, and once for being pinned.
  for (size_t left = (kMostUses + 1) * main_.size(); left > 0; --left) {
    const uint32_t record = main_.oldest();
    uint8_t& uses = nodes_[record].uses;
    if (uses == 0 && may_go(record)) return record;
    if (uses > 0) --uses;
    main_.MoveToNewest(record);
  }
  return 0;
}

}  // namespace infercache::store
