// Which slots of one session page are free. The page itself says nothing about that: it is the
// process's own business.
//
// Some slots belong to lanes for good: a lane pins in its slot what it looks at for a moment. The
// others are claimed one at a time, for as long as somebody keeps a view, and freed by any thread.
// Thread-safe, without locks.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "common/shm/session_page.h"

namespace infercache {

class PinSlots {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};

  // `page`'s first `limit` slots count. REQUIRES: 1 <= limit <= page.slot_capacity().
  PinSlots(shm::SessionPage page, uint32_t limit);
  PinSlots(const PinSlots&) = delete;
  PinSlots& operator=(const PinSlots&) = delete;

  // How many lanes have a slot: at least 1.
  uint32_t lanes() const { return lanes_; }
  // A lane's own slot, ready for use. REQUIRES: lane < lanes().
  uint32_t OfLane(uint32_t lane);

  // A free slot, ready for use, if possible near those of `lane`; kNone if there is none.
  uint32_t Claim(uint32_t lane);
  // REQUIRES: `slot` is claimed and holds no pin.
  void Free(uint32_t slot);
  // How many are free right now.
  uint32_t CountFree() const;

  // The daemon counts more of them from now on. Less than before: nothing happens.
  void RaiseLimit(uint32_t limit);
  uint32_t limit() const { return limit_.load(std::memory_order_relaxed); }
  uint32_t capacity() const { return page_.slot_capacity(); }

  shm::PinSlot& slot(uint32_t i) const { return page_.slot(i); }

 private:
  static constexpr uint32_t kWordSlots = 64;

  void AddFree(uint32_t begin, uint32_t end);
  bool IsLanes(uint32_t slot) const { return slot % stride_ == 0 && slot / stride_ < lanes_; }

  shm::SessionPage page_;
  const uint32_t lanes_;
  const uint32_t stride_;  // slots from one lane's to the next one's
  std::atomic<uint32_t> limit_{0};
  // Bit i % 64 of word i / 64: slot i is free.
  const std::unique_ptr<std::atomic<uint64_t>[]> free_;
};

}  // namespace infercache
