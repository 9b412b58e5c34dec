// What is learned from uses about a namespace's size: how far apart they are, what misses are due
// to, and what twice the capacity would be worth.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/limits.h"

namespace infercache::store {

// How many times lay between powers of 4 of a quarter of a second. Not thread-safe.
struct TimeCounts {
  static constexpr size_t kBounds = 12;
  static constexpr double kFirstBoundSeconds = 0.25;

  std::array<uint64_t, kBounds + 1> counts = {};  // the last one is beyond all bounds
  uint64_t sum_ms = 0;

  static constexpr uint64_t BoundMs(size_t i) { return uint64_t{250} << (2 * i); }
  void Add(uint64_t ms) {
    size_t i = 0;
    while (i < kBounds && ms > BoundMs(i)) ++i;
    ++counts[i];
    sum_ms += ms;
  }
};

// Totals since the namespace was made. A use counts once a request, as it does for the policies
// (see CountUse), and one that missed when the object is stored.
struct UseStats {
  uint64_t hits = 0;
  // Objects stored that were not there: evicted lately, so that they would still be there at twice
  // the capacity; expired; or not known at all, never stored or gone for long.
  uint64_t misses_evicted = 0, misses_expired = 0, misses_cold = 0;

  // The same by class id: what is stored and never hit says what its class is worth.
  struct OfClass {
    uint64_t hits = 0, stored = 0;
  };
  std::array<OfClass, kMaxClassId + 1> classes = {};

  TimeCounts hit_gap;          // between the use before and one that hit
  TimeCounts miss_gap;         // the same of misses_evicted
  TimeCounts age_at_eviction;  // since the object was stored

  double HitRatio() const { return ShareOfUses(hits); }
  double HitRatioAtTwiceTheCapacity() const { return ShareOfUses(hits + misses_evicted); }

 private:
  double ShareOfUses(uint64_t part) const {
    const uint64_t uses = hits + misses_evicted + misses_expired + misses_cold;
    return uses == 0 ? 0 : static_cast<double>(part) / static_cast<double>(uses);
  }
};

}  // namespace infercache::store
