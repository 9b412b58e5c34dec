#include "server/store/eviction/ghosts.h"

#include <array>

namespace infercache::store {
namespace {

uint64_t Mix(uint64_t hash) {
  const uint64_t mixed = hash * 0x9e3779b97f4a7c15u;
  return mixed ^ mixed >> 32;
}
// Chains are numbered by the low bits of this, which a multiplication alone leaves too alike.
uint32_t Low(uint64_t mixed) { return static_cast<uint32_t>(mixed); }
uint16_t High(uint64_t mixed) { return static_cast<uint16_t>(mixed >> 48); }

}  // namespace

void GhostTable::Add(uint64_t hash, const Ghost& ghost) {
  if (size_ == kMost || queue_.size() >= 2 * size_ + kTakenAlways) TakeOldest();
  if (queue_.size() == chains_.size()) Grow();
  const uint64_t mixed = Mix(hash);
  const Place place = first_ + static_cast<Place>(queue_.size());
  Place& newest = chains_[ChainOf(Low(mixed))];
  queue_.push_back({.hash_low = Low(mixed),
                    .hash_high = High(mixed),
                    .kind = ghost.kind,
                    .uses = ghost.uses,
                    .used_ms = ghost.used_ms,
                    .back = Holds(newest) ? place - newest : 0});
  newest = place;
  ++size_;
}

std::optional<Ghost> GhostTable::Take(uint64_t hash) {
  if (size_ == 0) return std::nullopt;
  const uint64_t mixed = Mix(hash);
  Place place = chains_[ChainOf(Low(mixed))];
  while (Holds(place)) {
    Entry& entry = At(place);
    if (entry.hash_low == Low(mixed) && entry.hash_high == High(mixed) && entry.kind != kTaken) {
      const Ghost ghost = GhostOf(entry);
      entry.kind = kTaken;
      --size_;
      DropTakenOldest();
      return ghost;
    }
    if (entry.back == 0) break;
    place -= entry.back;
  }
  return std::nullopt;
}

Ghost GhostTable::TakeOldest() {
  const Ghost oldest = GhostOf(queue_.front());
  queue_.front().kind = kTaken;
  --size_;
  DropTakenOldest();
  return oldest;
}

// The oldest one in the queue has not been taken, if there is any.
void GhostTable::DropTakenOldest() {
  while (!queue_.empty() && queue_.front().kind == kTaken) {
    queue_.pop_front();
    ++first_;
  }
}

// One chain more, which takes its share from the one that had its hashes until now.
void GhostTable::Grow() {
  const size_t made = chains_.size();
  const Place nowhere = first_ - 1;
  chains_.PushBack(nowhere);
  if (made == 2 * half_) half_ = made;
  if (made == 0) return;
  Place place = chains_[made - half_];
  chains_[made - half_] = nowhere;
  // The last one so far of either chain, the old one's and the new one's.
  std::array<Place, 2> last = {nowhere, nowhere};
  while (Holds(place)) {
    Entry& entry = At(place);
    const Place next = entry.back != 0 ? place - entry.back : nowhere;
    const size_t chain = ChainOf(entry.hash_low);
    Place& before = last[chain == made ? 1 : 0];
    if (before == nowhere) {
      chains_[chain] = place;
    } else {
      At(before).back = before - place;
    }
    entry.back = 0;
    before = place;
    place = next;
  }
}

}  // namespace infercache::store
