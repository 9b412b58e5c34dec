// A session's page: the pin slots of one client. The client writes it, the daemon reads it and
// trusts nothing in it: a wrong slot can only keep memory of the client's own namespace from being
// reused.
//
//   0       8          12         16              20        64                     64 + 8 *
//   capacity
//   +-------+----------+----------+---------------+---------+----------------------+
//   | magic | version  | capacity | slots_in_use  | revoked | slots                |
//   +-------+----------+----------+---------------+---------+----------------------+
//
// A slot is one 64-bit word, record << 32 | low half of the pinned generation; 0 = free.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>

namespace infercache::shm {

inline constexpr uint64_t kSessionMagic = 0x3173657373636669;  // "ifcsses1"
inline constexpr uint32_t kSessionLayoutVersion = 1;

using PinSlot = std::atomic<uint64_t>;

inline constexpr uint64_t MakePin(uint32_t record, uint64_t generation) {
  return uint64_t{record} << 32 | static_cast<uint32_t>(generation);
}
inline constexpr uint32_t PinnedRecord(uint64_t pin) { return static_cast<uint32_t>(pin >> 32); }

struct alignas(64) SessionHeader {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t slot_capacity;
  std::atomic<uint32_t> slots_in_use;  // raised before a slot beyond it is first used
  std::atomic<uint32_t> revoked;       // set by the daemon when it detaches the page
};
static_assert(sizeof(SessionHeader) == 64);

// A view of one page's memory, which it does not own; one for the client, one for the daemon.
// Thread-safe as far as slots are: each slot has one user at a time on the client's side.
class SessionPage {
 public:
  static constexpr size_t BytesFor(uint32_t slot_capacity) {
    return sizeof(SessionHeader) + size_t{slot_capacity} * sizeof(PinSlot);
  }

  // Formats `memory` as an empty page. REQUIRES: 64-byte aligned, BytesFor(slot_capacity) bytes.
  static SessionPage Format(std::span<std::byte> memory, uint32_t slot_capacity) {
    SessionPage page(memory, slot_capacity);
    new (page.header_) SessionHeader{kSessionMagic, kSessionLayoutVersion, slot_capacity, 0, 0};
    for (uint32_t i = 0; i < slot_capacity; ++i) new (&page.slots_[i]) PinSlot(0);
    return page;
  }

  // `slot_capacity` is what the caller made the page with, not what the page says.
  SessionPage(std::span<std::byte> memory, uint32_t slot_capacity)
      : header_(reinterpret_cast<SessionHeader*>(memory.data())),
        slots_(reinterpret_cast<PinSlot*>(memory.data() + sizeof(SessionHeader))),
        slot_capacity_(slot_capacity) {}

  uint32_t slot_capacity() const { return slot_capacity_; }
  // At most slot_capacity(), whatever the page says. seq_cst: part of the pin protocol, since a pin
  // in a slot that the daemon does not look at would not count.
  uint32_t slots_in_use() const {
    const uint32_t n = header_->slots_in_use.load(std::memory_order_seq_cst);
    return n < slot_capacity_ ? n : slot_capacity_;
  }
  void RaiseSlotsInUse(uint32_t n) { header_->slots_in_use.store(n, std::memory_order_seq_cst); }
  // Tells the client that its pins no longer count. What makes it so is that the daemon detaches
  // the page: the word is the client's to overwrite.
  void Revoke() { header_->revoked.store(1, std::memory_order_seq_cst); }
  bool revoked() const { return header_->revoked.load(std::memory_order_acquire) != 0; }
  PinSlot& slot(uint32_t i) const { return slots_[i]; }

 private:
  SessionHeader* header_;
  PinSlot* slots_;
  uint32_t slot_capacity_;  // private copy: the page's own is the client's to spoil
};

}  // namespace infercache::shm
