#include "client/src/pin_slots.h"

#include <algorithm>
#include <bit>

namespace infercache {

// At most half of the slots go to lanes. A word's distance between theirs keeps threads out of each
// other's cache lines; more would make the daemon's scans longer.
PinSlots::PinSlots(shm::SessionPage page, uint32_t limit)
    : page_(page),
      lanes_(std::clamp(limit / 2, uint32_t{1}, shm::kLanes)),
      stride_(std::min(kWordSlots, limit / lanes_)),
      free_(std::make_unique<std::atomic<uint64_t>[]>((page.slot_capacity() + kWordSlots - 1) /
                                                      kWordSlots)) {
  RaiseLimit(limit);
}

uint32_t PinSlots::OfLane(uint32_t lane) {
  const uint32_t slot = lane * stride_;
  page_.RaiseSlotsInUse(slot + 1);
  return slot;
}

uint32_t PinSlots::Claim(uint32_t lane) {
  const uint32_t words = (limit() + kWordSlots - 1) / kWordSlots;
  uint32_t word = lane * stride_ / kWordSlots;
  for (uint32_t i = 0; i < words; ++i, ++word) {
    if (word >= words) word = 0;
    uint64_t free = free_[word].load(std::memory_order_relaxed);
    while (free != 0) {
      // acquire: the store that emptied the slot comes before the next pin in it.
      if (free_[word].compare_exchange_weak(free, free & (free - 1), std::memory_order_acquire,
                                            std::memory_order_relaxed)) {
        const uint32_t slot = word * kWordSlots + static_cast<uint32_t>(std::countr_zero(free));
        page_.RaiseSlotsInUse(slot + 1);
        return slot;
      }
    }
  }
  return kNone;
}

void PinSlots::Free(uint32_t slot) {
  free_[slot / kWordSlots].fetch_or(uint64_t{1} << (slot % kWordSlots), std::memory_order_release);
}

uint32_t PinSlots::CountFree() const {
  const uint32_t words = (limit() + kWordSlots - 1) / kWordSlots;
  uint32_t count = 0;
  for (uint32_t i = 0; i < words; ++i) {
    count += static_cast<uint32_t>(std::popcount(free_[i].load(std::memory_order_relaxed)));
  }
  return count;
}

void PinSlots::RaiseLimit(uint32_t limit) {
  limit = std::min(limit, capacity());
  uint32_t before = limit_.load(std::memory_order_relaxed);
  while (before < limit) {
    // Whoever moves the limit owns the slots in between.
    if (limit_.compare_exchange_weak(before, limit)) return AddFree(before, limit);
  }
}

void PinSlots::AddFree(uint32_t begin, uint32_t end) {
  for (uint32_t slot = begin; slot < end; ++slot) {
    if (!IsLanes(slot)) Free(slot);
  }
}

}  // namespace infercache
