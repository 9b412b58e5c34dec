#include "server/store/eviction/ghosts.h"

namespace infercache::store {
namespace {

uint64_t Mix(uint64_t hash) {
  const uint64_t mixed = hash * 0x9e3779b97f4a7c15u;
  return mixed ^ mixed >> 32;
}
// Chains are numbered by the low bits of this, which a multiplication alone leaves too alike.
uint32_t High(uint64_t mixed) { return static_cast<uint32_t>(mixed); }
uint16_t Low(uint64_t mixed) { return static_cast<uint16_t>(mixed >> 48); }

}  // namespace

uint32_t* GhostTable::FindLink(uint64_t mixed) {
  uint32_t* link = &chains_[ChainOf(High(mixed))];
  while (*link != kNone &&
         (entries_[*link].hash_high != High(mixed) || entries_[*link].hash_low != Low(mixed))) {
    link = &entries_[*link].next;
  }
  return link;
}

uint32_t* GhostTable::LinkTo(uint32_t entry) {
  uint32_t* link = &chains_[ChainOf(entries_[entry].hash_high)];
  while (*link != entry) link = &entries_[*link].next;
  return link;
}

Ghost GhostTable::Forget(uint32_t* link) {
  const uint32_t number = *link;
  Entry& entry = entries_[number];
  *link = entry.next;
  (entry.newer != kNone ? entries_[entry.newer].older : newest_) = entry.older;
  (entry.older != kNone ? entries_[entry.older].newer : oldest_) = entry.newer;
  const Ghost ghost = entry.ghost;
  entry.ghost.kind = kFree;
  entry.next = free_;
  free_ = number;
  --size_;
  return ghost;
}

void GhostTable::Add(uint64_t hash, const Ghost& ghost) {
  const uint64_t mixed = Mix(hash);
  if (size_ == kMost) TakeOldest();
  Take(hash);
  if (size_ == chains_.size()) Grow();
  uint32_t number = free_;
  if (number != kNone) {
    free_ = entries_[number].next;
  } else {
    number = static_cast<uint32_t>(entries_.size());
    entries_.PushBack({});
  }
  uint32_t& chain = chains_[ChainOf(High(mixed))];
  entries_[number] = {.hash_high = High(mixed),
                      .hash_low = Low(mixed),
                      .ghost = ghost,
                      .next = chain,
                      .older = newest_};
  chain = number;
  (newest_ != kNone ? entries_[newest_].newer : oldest_) = number;
  newest_ = number;
  ++size_;
}

std::optional<Ghost> GhostTable::Take(uint64_t hash) {
  if (size_ == 0) return std::nullopt;
  uint32_t* const link = FindLink(Mix(hash));
  if (*link == kNone) return std::nullopt;
  return Forget(link);
}

Ghost GhostTable::TakeOldest() { return Forget(LinkTo(oldest_)); }

// One chain more, which takes its share from the one that had its hashes until now.
void GhostTable::Grow() {
  const size_t made = chains_.size();
  chains_.PushBack(kNone);
  if (made == 2 * half_) half_ = made;
  if (made == 0) return;
  uint32_t* link = &chains_[made - half_];
  uint32_t* moved = &chains_[made];
  while (*link != kNone) {
    const uint32_t number = *link;
    Entry& entry = entries_[number];
    if (ChainOf(entry.hash_high) != made) {
      link = &entry.next;
      continue;
    }
    *link = entry.next;
    entry.next = kNone;
    *moved = number;
    moved = &entry.next;
  }
}

}  // namespace infercache::store
