// Objects that are gone, remembered by their hashes for a while: the newest so many.
//
// A queue in the order in which they went, and a hash table of chains through it: 24 bytes each. As
// all come at one end of the queue, every chain is in order too, and whatever leads to a place that
// has left the queue leads to nothing: what is forgotten is taken out of no chain. What is taken
// leaves its place empty; when half of the places are, the others are moved together, some with
// each that comes. The table grows by one chain at a time (linear hashing). So no call costs more
// than a few short walks, however many there are. An object is known by 48 bits of its hash: a
// wrong match is rare, and no more than a wrong guess.
//
// Not thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

#include "server/store/eviction/pieces.h"

namespace infercache::store {

struct Ghost {
  uint32_t used_ms = 0;  // low half of the time of the last use
  uint8_t kind = 0;      // the policy's; not 255
  uint8_t uses = 0;      // the policy's
};

class GhostTable {
 public:
  // Whatever the policy asks for: 100 MB, or 250 where half of the places are empty.
  static constexpr size_t kMost = size_t{1} << 22;

  size_t size() const { return size_; }
  // The newest now; the oldest is forgotten if there are kMost. Whoever stores an object takes its
  // ghost, so there is none of this hash; if there is one, Take finds either.
  void Add(uint64_t hash, const Ghost& ghost);
  // Into the CPU's cache, what Add and Take of this hash will look at first.
  void Prefetch(uint64_t hash) const {
    if (chains_.size() != 0) __builtin_prefetch(&chains_[ChainOf(Low(Mix(hash)))], /*rw=*/1);
  }
  // Forgets and returns the ghost of this hash.
  std::optional<Ghost> Take(uint64_t hash);
  bool Holds(uint64_t hash, uint8_t kind) const;
  // Forgets and returns the one that has been here longest. REQUIRES: size() > 0.
  Ghost TakeOldest();
  // Calls f(ghost) for about `limit` of them at most, at equal distances in the order in which they
  // went: neighbours are alike. Each stands for SampleWeight(limit).
  template <class F>
  void Sample(size_t limit, F f) const {
    const size_t step = SampleStep(limit);
    for (size_t i = step / 2; i < queue_.size(); i += step) {
      if (queue_[i].kind != kEmpty) f(GhostOf(queue_[i]));
    }
  }
  double SampleWeight(size_t limit) const { return static_cast<double>(SampleStep(limit)); }
  size_t memory_bytes() const { return queue_.size() * sizeof(Entry) + chains_.memory_bytes(); }

 private:
  static constexpr uint8_t kEmpty = 255;  // as a kind
  // Fewer empty places are not worth moving others.
  static constexpr size_t kEmptyAlways = 1024;
  // Places are gone through four times as fast as others come.
  static constexpr int kStepsPerAdd = 4;

  // Counts whatever was ever added, modulo 2^32.
  using Place = uint32_t;

  struct Entry {
    uint32_t hash_low = 0;
    uint16_t hash_high = 0;
    uint8_t kind = 0;
    uint8_t uses = 0;
    uint32_t used_ms = 0;
    uint32_t back = 0;  // to the next one of its chain, so many places ago; 0 = it is the last
  };
  static_assert(sizeof(Entry) == 16);

  struct Chain {
    Place newest = 0;
    // A bit for each of its entries, by their hashes, and for some that were: most who are not
    // there need no look at those that are.
    uint32_t marks = 0;
  };

  static uint64_t Mix(uint64_t hash) {
    const uint64_t mixed = hash * 0x9e3779b97f4a7c15u;
    return mixed ^ mixed >> 32;
  }
  // Chains are numbered by the low bits of this, which a multiplication alone leaves too alike.
  static uint32_t Low(uint64_t mixed) { return static_cast<uint32_t>(mixed); }
  static uint16_t High(uint64_t mixed) { return static_cast<uint16_t>(mixed >> 48); }
  static uint32_t MarkOf(uint16_t hash_high) { return uint32_t{1} << (hash_high % 32); }

  static Ghost GhostOf(const Entry& entry) {
    return {.used_ms = entry.used_ms, .kind = entry.kind, .uses = entry.uses};
  }
  size_t SampleStep(size_t limit) const { return queue_.size() / limit + 1; }
  Place end() const { return front_ + static_cast<Place>(queue_.size()); }
  bool Holds(Place place) const { return place - oldest_ < end() - oldest_; }
  Entry& At(Place place) { return queue_[place - front_]; }
  const Entry& At(Place place) const { return queue_[place - front_]; }
  // The number of the chain in which this hash belongs.
  size_t ChainOf(uint32_t hash_low) const {
    const size_t wide = hash_low & (2 * half_ - 1);
    return wide < chains_.size() ? wide : wide - half_;
  }
  void Empty(Place place);
  // Goes on to the first place that is not empty, and drops some before it.
  void FindOldest();
  // Of bringing together what is left in the queue.
  void Step();
  void Move(Place from, Place to);
  void Grow();

  std::deque<Entry> queue_;
  Place front_ = 0;   // of queue_.front()
  Place oldest_ = 0;  // is not empty, if any is; what is before it waits to be dropped
  size_t size_ = 0;
  // From the newest place on, down to `from_`, all that is not empty has been moved together, down
  // to `to_`: between them all is empty.
  bool moving_ = false;
  Place from_ = 0, to_ = 0;
  // As many chains as there were ever entries at once. Those from `half_` on have the hashes whose
  // bit of that value is set; they came out of the chains `half_` before them.
  Pieces<Chain> chains_;
  size_t half_ = 1;  // the largest power of two below the number of chains, or 1
};

}  // namespace infercache::store
