#include "server/store/eviction/ghosts.h"

#include <array>
#include <utility>

namespace infercache::store {
void GhostTable::Add(uint64_t hash, const Ghost& ghost) {
  if (size_ == kMost) TakeOldest();
  if (!moving_ && queue_.size() >= 2 * size_ + kEmptyAlways) {
    moving_ = true;
    from_ = to_ = end() - 1;
  }
  for (int i = 0; i < kStepsPerAdd && moving_; ++i) Step();
  FindOldest();
  if (queue_.size() == chains_.size()) Grow();
  const uint64_t mixed = Mix(hash);
  const Place place = end();
  Chain& chain = chains_[ChainOf(Low(mixed))];
  const bool first = !Holds(chain.newest);
  queue_.push_back({.hash_low = Low(mixed),
                    .hash_high = High(mixed),
                    .kind = ghost.kind,
                    .uses = ghost.uses,
                    .used_ms = ghost.used_ms,
                    .back = first ? 0 : place - chain.newest});
  chain = {.newest = place, .marks = (first ? 0 : chain.marks) | MarkOf(High(mixed))};
  ++size_;
}

std::optional<Ghost> GhostTable::Take(uint64_t hash) {
  if (size_ == 0) return std::nullopt;
  const uint64_t mixed = Mix(hash);
  Chain& chain = chains_[ChainOf(Low(mixed))];
  if ((chain.marks & MarkOf(High(mixed))) == 0) return std::nullopt;
  Entry* newer = nullptr;
  for (Place place = chain.newest; Holds(place);) {
    Entry& entry = At(place);
    if (entry.hash_low == Low(mixed) && entry.hash_high == High(mixed)) {
      const Ghost ghost = GhostOf(entry);
      const bool last = entry.back == 0 || !Holds(place - entry.back);
      if (newer != nullptr) {
        newer->back = last ? 0 : newer->back + entry.back;
      } else {
        chain.newest = last ? oldest_ - 1 : place - entry.back;
      }
      Empty(place);
      return ghost;
    }
    if (entry.back == 0) break;
    newer = &entry;
    place -= entry.back;
  }
  return std::nullopt;
}

bool GhostTable::Holds(uint64_t hash, uint8_t kind) const {
  if (size_ == 0) return false;
  const uint64_t mixed = Mix(hash);
  const Chain& chain = chains_[ChainOf(Low(mixed))];
  if ((chain.marks & MarkOf(High(mixed))) == 0) return false;
  for (Place place = chain.newest; Holds(place);) {
    const Entry& entry = At(place);
    if (entry.hash_low == Low(mixed) && entry.hash_high == High(mixed)) return entry.kind == kind;
    if (entry.back == 0) break;
    place -= entry.back;
  }
  return false;
}

Ghost GhostTable::TakeOldest() {
  const Ghost oldest = GhostOf(At(oldest_));
  Empty(oldest_);
  return oldest;
}

void GhostTable::Empty(Place place) {
  At(place).kind = kEmpty;
  --size_;
  FindOldest();
}

void GhostTable::FindOldest() {
  while (oldest_ != end() && At(oldest_).kind == kEmpty) ++oldest_;
  for (int i = 0; i < kStepsPerAdd && front_ != oldest_; ++i) {
    queue_.pop_front();
    ++front_;
  }
}

void GhostTable::Step() {
  if (!Holds(from_)) {
    // Through: what is empty now comes before all the others.
    moving_ = false;
    if (Holds(to_)) oldest_ = to_ + 1;
    return;
  }
  if (At(from_).kind != kEmpty) {
    if (from_ != to_) Move(from_, to_);
    --to_;
  }
  --from_;
}

void GhostTable::Move(Place from, Place to) {
  Entry& entry = At(from);
  Chain& chain = chains_[ChainOf(entry.hash_low)];
  if (chain.newest == from) {
    chain.newest = to;
  } else {
    Place newer = chain.newest;
    while (newer - At(newer).back != from) newer -= At(newer).back;
    At(newer).back = newer - to;
  }
  At(to) = entry;
  if (entry.back != 0) At(to).back += to - from;
  entry.kind = kEmpty;
}

// One chain more, which takes its share from the one that had its hashes until now.
void GhostTable::Grow() {
  const size_t made = chains_.size();
  const Place nowhere = oldest_ - 1;
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
