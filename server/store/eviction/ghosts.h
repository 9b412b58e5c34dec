// Objects that are gone, remembered by their hashes for a while: the newest so many.
//
// Entries in a list in the order in which they went, and a hash table of chains that leads to them:
// 36 bytes each. Both grow by pieces that never move, and the table by one chain at a time
// (linear hashing), so that no call costs more than a short walk, however many there are. An object
// is known by 48 bits of its hash: a wrong guess in a million lookups costs no more than a wrong
// guess.
//
// Not thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
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
  // Whatever the policy asks for: 150 MB.
  static constexpr size_t kMost = size_t{1} << 22;

  size_t size() const { return size_; }
  // The newest now; the oldest is forgotten if there are kMost. Whoever stores an object takes its
  // ghost, so there is none of this hash; if there is one, Take finds either.
  void Add(uint64_t hash, const Ghost& ghost);
  // Forgets and returns the ghost of this hash.
  std::optional<Ghost> Take(uint64_t hash);
  // Forgets and returns the one that has been here longest. REQUIRES: size() > 0.
  Ghost TakeOldest();
  // Calls f(ghost) for about `limit` of them at most, at equal distances in memory, which is taken
  // and given back in the order in which they went: neighbours are alike. Each stands for
  // SampleWeight(limit).
  template <class F>
  void Sample(size_t limit, F f) const {
    const size_t step = SampleStep(limit);
    for (size_t i = step / 2; i < entries_.size(); i += step) {
      const Entry& entry = entries_[i];
      if (entry.ghost.kind != kFree) f(entry.ghost);
    }
  }
  double SampleWeight(size_t limit) const { return static_cast<double>(SampleStep(limit)); }
  size_t memory_bytes() const { return entries_.memory_bytes() + chains_.memory_bytes(); }

 private:
  size_t SampleStep(size_t limit) const { return entries_.size() / limit + 1; }

  static constexpr uint8_t kFree = 255;  // as a kind
  static constexpr uint32_t kNone = UINT32_MAX;

  struct Entry {
    uint32_t hash_high = 0;
    uint16_t hash_low = 0;
    Ghost ghost;
    uint32_t next = kNone;      // of its chain, or of the free ones
    uint32_t previous = kNone;  // of its chain; kNone = it is the first
    uint32_t newer = kNone, older = kNone;
  };

  // The number of the chain in which this hash belongs.
  size_t ChainOf(uint32_t hash_high) const {
    const size_t wide = hash_high & (2 * half_ - 1);
    return wide < chains_.size() ? wide : wide - half_;
  }
  // The entry of this hash, or kNone. REQUIRES: there are chains.
  uint32_t Find(uint64_t mixed) const;
  // The link that leads to an entry of a chain.
  uint32_t& LinkTo(const Entry& entry) {
    return entry.previous == kNone ? chains_[ChainOf(entry.hash_high)]
                                   : entries_[entry.previous].next;
  }
  // Makes it the first one of its chain.
  void Chain(uint32_t number);
  void Unchain(const Entry& entry);
  Ghost Forget(uint32_t number);
  void Grow();

  Pieces<Entry> entries_;
  uint32_t free_ = kNone;
  uint32_t newest_ = kNone, oldest_ = kNone;
  size_t size_ = 0;
  // As many chains as there were ever ghosts at once. Chains from `half_` on have the hashes whose
  // bit of that value is set; they came out of the chains `half_` before them.
  Pieces<uint32_t> chains_;
  size_t half_ = 1;  // the largest power of two below the number of chains, or 1
};

}  // namespace infercache::store
