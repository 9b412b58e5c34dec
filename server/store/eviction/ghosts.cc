#include "server/store/eviction/ghosts.h"

#include <utility>

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

uint32_t GhostTable::Find(uint64_t mixed) const {
  uint32_t number = chains_[ChainOf(High(mixed))];
  while (number != kNone &&
         (entries_[number].hash_high != High(mixed) || entries_[number].hash_low != Low(mixed))) {
    number = entries_[number].next;
  }
  return number;
}

void GhostTable::Chain(uint32_t number) {
  Entry& entry = entries_[number];
  uint32_t& first = chains_[ChainOf(entry.hash_high)];
  entry.next = first;
  entry.previous = kNone;
  if (first != kNone) entries_[first].previous = number;
  first = number;
}

void GhostTable::Unchain(const Entry& entry) {
  LinkTo(entry) = entry.next;
  if (entry.next != kNone) entries_[entry.next].previous = entry.previous;
}

Ghost GhostTable::Forget(uint32_t number) {
  Entry& entry = entries_[number];
  Unchain(entry);
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
  if (size_ == chains_.size()) Grow();
  uint32_t number = free_;
  if (number != kNone) {
    free_ = entries_[number].next;
  } else {
    number = static_cast<uint32_t>(entries_.size());
    entries_.PushBack({});
  }
  entries_[number] = {
      .hash_high = High(mixed), .hash_low = Low(mixed), .ghost = ghost, .older = newest_};
  Chain(number);
  (newest_ != kNone ? entries_[newest_].newer : oldest_) = number;
  newest_ = number;
  ++size_;
}

std::optional<Ghost> GhostTable::Take(uint64_t hash) {
  if (size_ == 0) return std::nullopt;
  const uint32_t number = Find(Mix(hash));
  if (number == kNone) return std::nullopt;
  return Forget(number);
}

Ghost GhostTable::TakeOldest() {
  const Ghost ghost = Forget(oldest_);
  // The next one, whose link may be anywhere.
  if (oldest_ != kNone) __builtin_prefetch(&LinkTo(entries_[oldest_]), /*rw=*/1);
  return ghost;
}

// One chain more, which takes its share from the one that had its hashes until now.
void GhostTable::Grow() {
  const size_t made = chains_.size();
  chains_.PushBack(kNone);
  if (made == 2 * half_) half_ = made;
  if (made == 0) return;
  uint32_t number = std::exchange(chains_[made - half_], kNone);
  while (number != kNone) {
    const uint32_t next = entries_[number].next;
    Chain(number);  // some into the chain in which they were
    number = next;
  }
}

}  // namespace infercache::store
