#include "server/store/eviction/arc.h"

#include <algorithm>

namespace infercache::store {

void ArcPolicy::Insert(uint32_t record, const Use& use) {
  const auto once = static_cast<double>(once_ghosts_.size());
  const auto often = static_cast<double>(often_ghosts_.size());
  const auto members = static_cast<double>(once_.size() + often_.size() + 1);
  if (once_ghosts_.Take(use.hash).has_value()) {
    target_ = std::min(members, target_ + std::max(1.0, often / once));
    often_.InsertBehind(use.anchor, record);
  } else if (often_ghosts_.Take(use.hash).has_value()) {
    target_ = std::max(0.0, target_ - std::max(1.0, once / often));
    often_.InsertBehind(use.anchor, record);
  } else {
    once_.InsertBehind(use.anchor, record);
  }
}

void ArcPolicy::Touch(uint32_t record, const Use& use) {
  if (once_.Holds(record)) {
    if (use.repeat) return once_.MoveToNewest(record);
    once_.Remove(record);
    often_.PushNewest(record);
  } else {
    often_.MoveToNewest(record);
  }
}

void ArcPolicy::Remove(uint32_t record, const Departure& departure) {
  const bool was_once = once_.Holds(record);
  (was_once ? once_ : often_).Remove(record);
  if (!departure.evicted) return;
  (was_once ? once_ghosts_ : often_ghosts_).Add(departure.hash, {});
  TrimGhosts();
}

// The paper's bounds, with what is there for the capacity, which is in bytes and not in objects:
// used once, with ghosts, at most as many as fit; in all, twice as many.
void ArcPolicy::TrimGhosts() {
  const size_t capacity = once_.size() + often_.size() + 1;
  while (once_ghosts_.size() > 0 && once_.size() + once_ghosts_.size() > capacity) {
    once_ghosts_.TakeOldest();
  }
  while (often_ghosts_.size() > 0 && once_ghosts_.size() + often_ghosts_.size() > capacity) {
    often_ghosts_.TakeOldest();
  }
}

uint32_t ArcPolicy::Victim(uint64_t, MayGo may_go) {
  const bool once_first =
      once_.size() > 0 && (static_cast<double>(once_.size()) > target_ || often_.size() == 0);
  const uint32_t victim = (once_first ? once_ : often_).OldestThatMayGo(may_go);
  return victim != 0 ? victim : (once_first ? often_ : once_).OldestThatMayGo(may_go);
}

}  // namespace infercache::store
