#include "server/store/eviction/ghosts.h"

#include <array>
#include <utility>

namespace infercache::store {
void GhostTable::Add(uint64_t hash, const Ghost& ghost) {
  if (size_ == kMost || queue_.size() >= 2 * size_ + kTakenAlways) TakeOldest();
  if (queue_.size() == chains_.size()) Grow();
  const uint64_t mixed = Mix(hash);
  const Place place = first_ + static_cast<Place>(queue_.size());
  Chain& chain = chains_[ChainOf(Low(mixed))];
  const bool empty = !Holds(chain.newest);
  queue_.push_back({.hash_low = Low(mixed),
                    .hash_high = High(mixed),
                    .kind = ghost.kind,
                    .uses = ghost.uses,
                    .used_ms = ghost.used_ms,
                    .back = empty ? 0 : place - chain.newest});
  chain = {.newest = place, .marks = (empty ? 0 : chain.marks) | MarkOf(High(mixed))};
  ++size_;
}

std::optional<Ghost> GhostTable::Take(uint64_t hash) {
  if (size_ == 0) return std::nullopt;
  const uint64_t mixed = Mix(hash);
  const Chain& chain = chains_[ChainOf(Low(mixed))];
  if ((chain.marks & MarkOf(High(mixed))) == 0) return std::nullopt;
  Place place = chain.newest;
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
  chains_.PushBack({.newest = nowhere});
  if (made == 2 * half_) half_ = made;
  if (made == 0) return;
  Chain& split = chains_[made - half_];
  Place place = std::exchange(split, {.newest = nowhere}).newest;
  // The last one so far of either chain, the old one's and the new one's.
  std::array<Place, 2> last = {nowhere, nowhere};
  while (Holds(place)) {
    Entry& entry = At(place);
    const Place next = entry.back != 0 ? place - entry.back : nowhere;
    const bool moves = ChainOf(entry.hash_low) == made;
    Chain& chain = moves ? chains_[made] : split;
    Place& before = last[moves ? 1 : 0];
    if (before == nowhere) {
      chain.newest = place;
    } else {
      At(before).back = before - place;
    }
    chain.marks |= MarkOf(entry.hash_high);
    entry.back = 0;
    before = place;
    place = next;
  }
}

}  // namespace infercache::store
