// Objects that are gone, remembered by their hashes for a while: the newest so many.
//
// A ring of entries in the order in which they went, and an open-addressing table that leads to
// them; about 30 bytes each. An object is known by 48 bits of its hash: a wrong guess in a million
// lookups costs no more than a wrong guess.
//
// Not thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace infercache::store {

struct Ghost {
  uint32_t used_ms = 0;  // low half of the time of the last use
  uint8_t kind = 0;      // the policy's; not 255
  uint8_t uses = 0;      // the policy's
};

class GhostTable {
 public:
  // Whatever the policy asks for: 130 MB.
  static constexpr size_t kMost = size_t{1} << 22;

  size_t size() const { return size_; }
  // The newest now; another one of this hash is forgotten, and the oldest if there are kMost.
  void Add(uint64_t hash, const Ghost& ghost);
  // Forgets and returns the ghost of this hash.
  std::optional<Ghost> Take(uint64_t hash);
  // Forgets and returns the one that has been here longest. REQUIRES: size() > 0.
  Ghost TakeOldest();
  // Calls f(ghost) for about `limit` of them at most, at equal distances in the order in which they
  // went: neighbours are alike. Each stands for SampleWeight(limit).
  template <class F>
  void Sample(size_t limit, F f) const {
    const size_t step = span_ / limit + 1;
    for (size_t i = step / 2; i < span_; i += step) {
      const Entry& entry = ring_[Wrap(front_ + i)];
      if (entry.ghost.kind != kGone) f(entry.ghost);
    }
  }
  double SampleWeight(size_t limit) const { return static_cast<double>(span_ / limit + 1); }
  size_t memory_bytes() const {
    return ring_.capacity() * sizeof(Entry) + table_.capacity() * sizeof(Slot);
  }

 private:
  static constexpr uint8_t kGone = 255;  // as a kind: taken out of the middle
  struct Entry {
    uint32_t hash_high = 0;
    uint16_t hash_low = 0;
    Ghost ghost;
  };
  struct Slot {
    uint32_t hash_high = 0;
    uint32_t place = 0;  // in the ring, plus 1; 0 = the slot is empty
  };

  size_t Wrap(size_t place) const { return place < ring_.size() ? place : place - ring_.size(); }
  size_t Home(uint32_t hash_high) const { return hash_high >> shift_; }
  // The slot that leads to the entry of this hash, or the empty one where it would be.
  size_t FindSlot(uint64_t mixed) const;
  size_t SlotOfPlace(size_t place) const;
  void Erase(size_t slot);
  // Closes the gaps that Take left, in a ring and a table of the right size.
  void Rebuild();

  std::vector<Entry> ring_;
  std::vector<Slot> table_;  // a power of two
  int shift_ = 0;
  size_t front_ = 0;  // the place of the oldest, taken out or not
  size_t span_ = 0;   // places in use from there on
  size_t size_ = 0;
};

}  // namespace infercache::store
