// A session's page: what one client tells the daemon without a call. The client writes it, the
// daemon reads it and trusts nothing in it: a wrong slot can only keep memory of the client's own
// namespace from being reused, a wrong touch only reorder that namespace's recency.
//
//   0         header: constants | the client's line | the daemon's line
//   256       LaneHeader[16]: counters and ring positions, the client's line and the daemon's
//   4096      rings: 16 x 8192 words, the touches of each lane
//   1052672   pin slots: one word each, `slot_capacity` of them
//
// Slot and touch are the same word, record << 32 | low half of the pinned generation. A visible
// generation is even, so that a touch has its lowest bit for "end of a request". 0 = none.
//
// A lane is what one thread of the client uses at a time (who locks it is the client's business):
// a ring of touches, counters, and by habit the pin slots around its number. All positions and
// counters only grow.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>

#include "common/limits.h"

namespace infercache::shm {

inline constexpr uint64_t kSessionMagic = 0x3273657373636669;  // "ifcsses2"
inline constexpr uint32_t kSessionLayoutVersion = 2;
inline constexpr uint32_t kLanes = 16;
inline constexpr uint32_t kRingEntries = 8192;  // a power of two

using PinSlot = std::atomic<uint64_t>;

inline constexpr uint64_t MakePin(uint32_t record, uint64_t generation) {
  return uint64_t{record} << 32 | static_cast<uint32_t>(generation);
}
inline constexpr uint32_t PinnedRecord(uint64_t pin) { return static_cast<uint32_t>(pin >> 32); }

// A use of a visible record, for the daemon's recency.
inline constexpr uint64_t MakeTouch(uint64_t pin, bool end_of_request) {
  return pin | (end_of_request ? 1 : 0);
}
inline constexpr uint64_t TouchedPin(uint64_t touch) { return touch & ~uint64_t{1}; }
inline constexpr bool EndsRequest(uint64_t touch) { return (touch & 1) != 0; }

struct alignas(64) SessionHeader {
  // Constant.
  uint64_t magic;
  uint32_t layout_version;
  uint32_t slot_capacity;
  // The client's.
  alignas(64) std::atomic<uint32_t> slots_in_use;  // raised before a slot beyond it is first used
  // The daemon's.
  alignas(64) std::atomic<uint32_t> revoked;  // set when the page's pins have stopped counting
};
static_assert(sizeof(SessionHeader) == 192);

struct alignas(64) LaneHeader {
  // The client's. `touched` counts the words ever put into the ring: word n is at n % kRingEntries.
  std::atomic<uint64_t> touched;
  std::atomic<uint64_t> hits;
  std::atomic<uint64_t> misses;
  std::atomic<uint64_t> hit_bytes;
  std::atomic<uint64_t> saved_compute_us;
  // The daemon's: touches up to here have been applied, or were lost.
  alignas(64) std::atomic<uint64_t> drained;
};
static_assert(sizeof(LaneHeader) == 128);

// A view of one page's memory, which it does not own; one for the client, one for the daemon.
// Thread-safe as far as slots are: each slot has one user at a time on the client's side.
class SessionPage {
 public:
  static constexpr size_t kLanesOffset = 256;
  static constexpr size_t kRingsOffset = 4096;
  static constexpr size_t kRingBytes = size_t{kRingEntries} * sizeof(uint64_t);
  static constexpr size_t kSlotsOffset = kRingsOffset + kLanes * kRingBytes;

  static constexpr size_t BytesFor(uint32_t slot_capacity) {
    return kSlotsOffset + size_t{slot_capacity} * sizeof(PinSlot);
  }

  // Formats zeroed `memory` as an empty page, touching its header alone.
  // REQUIRES: 64-byte aligned, BytesFor(slot_capacity) bytes.
  static SessionPage Format(std::span<std::byte> memory, uint32_t slot_capacity) {
    new (memory.data()) SessionHeader{kSessionMagic, kSessionLayoutVersion, slot_capacity, 0, 0};
    return SessionPage(memory, slot_capacity);
  }

  // `slot_capacity` is what the caller made the page with, not what the page says.
  SessionPage(std::span<std::byte> memory, uint32_t slot_capacity)
      : base_(memory.data()), slot_capacity_(slot_capacity) {}

  uint32_t slot_capacity() const { return slot_capacity_; }
  // At most slot_capacity(), whatever the page says. seq_cst: part of the pin protocol, since a pin
  // in a slot that the daemon does not look at would not count.
  uint32_t slots_in_use() const {
    const uint32_t n = header().slots_in_use.load(std::memory_order_seq_cst);
    return n < slot_capacity_ ? n : slot_capacity_;
  }
  // The client's; several threads may raise it.
  void RaiseSlotsInUse(uint32_t n) {
    // seq_cst, for a thread that finds raised what another one raised.
    uint32_t now = header().slots_in_use.load(std::memory_order_seq_cst);
    while (now < n && !header().slots_in_use.compare_exchange_weak(now, n)) {
    }
  }
  // Tells the client that its pins no longer count. What makes it so is that the daemon detaches
  // the page: the word is the client's to overwrite.
  void Revoke() { header().revoked.store(1, std::memory_order_seq_cst); }
  bool revoked() const { return header().revoked.load(std::memory_order_acquire) != 0; }

  PinSlot& slot(uint32_t i) const { return At<PinSlot>(kSlotsOffset)[i]; }
  LaneHeader& lane(uint32_t i) const { return At<LaneHeader>(kLanesOffset)[i]; }
  // Word `position` of lane i's ring.
  std::atomic<uint64_t>& touch(uint32_t lane, uint64_t position) const {
    return At<std::atomic<uint64_t>>(kRingsOffset + lane * kRingBytes)[position % kRingEntries];
  }

 private:
  SessionHeader& header() const { return *At<SessionHeader>(0); }
  template <class T>
  T* At(size_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }

  std::byte* base_;
  uint32_t slot_capacity_;  // private copy: the page's own is the client's to spoil
};
static_assert(SessionPage::kLanesOffset >= sizeof(SessionHeader) &&
              SessionPage::kLanesOffset + kLanes * sizeof(LaneHeader) <= SessionPage::kRingsOffset);

// Whether `memory` starts with the header of a page with this many slots.
inline bool CheckSessionHeader(std::span<const std::byte> memory, uint32_t slot_capacity) {
  if (memory.size() < SessionPage::BytesFor(slot_capacity)) return false;
  const auto& header = *reinterpret_cast<const SessionHeader*>(memory.data());
  return header.magic == kSessionMagic && header.layout_version == kSessionLayoutVersion &&
         header.slot_capacity == slot_capacity;
}

}  // namespace infercache::shm
