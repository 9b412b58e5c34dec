// What pins need for as long as they last: the session page with their slots, the bytes that they
// may hold in all, and the connection, whose end is the end of the session and of what it pins.
//
// Shared by a session, by all that is held in its arena, and by its claims. Thread-safe.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "client/src/fork_guard.h"
#include "client/src/load_barrier.h"
#include "client/src/local_connection.h"
#include "client/src/mapped_segment.h"
#include "client/src/pin_slots.h"
#include "common/shm/session_page.h"
#include "infercache/v1/local.pb.h"

namespace infercache {

class SessionPins : public std::enable_shared_from_this<SessionPins> {
 public:
  // REQUIRES: `welcome` and `page` make sense together.
  SessionPins(const v1::Welcome& welcome, MappedSegment page,
              std::shared_ptr<LocalConnection> connection);
  SessionPins(const SessionPins&) = delete;
  SessionPins& operator=(const SessionPins&) = delete;

  LocalConnection& connection() const { return *connection_; }
  const shm::SessionPage& page() const { return page_; }
  PinSlots& slots() { return slots_; }
  // After bytes were copied out: whether they may have changed meanwhile.
  bool RevokedMeanwhile() const {
    LoadBarrier();
    return page_.revoked();
  }
  // Of this process, or of a parent: then there is nothing here.
  bool inherited() const { return guard_.inherited(); }

  uint64_t budget_bytes() const { return budget_bytes_; }
  // Takes `bytes`, an object's size, out of what may still be held pinned; false if that is less.
  // The daemon weighs objects by their size as well, whatever their blocks take.
  bool TakeBudget(uint64_t bytes);
  void ReturnBudget(uint64_t bytes) { pinned_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }

  // Asks the daemon for so many slots, without waiting, unless that is under way.
  void AskForSlots(uint32_t slots);
  // Whether waiting for more slots is worth while: not after it took a whole deadline, until the
  // daemon grants some.
  bool grants_slots() const { return grants_slots_.load(std::memory_order_relaxed); }
  // What the daemon answered to somebody who waited; 0 = nothing, in time.
  void SlotsGranted(uint32_t limit);

 private:
  // Constant after construction. The connection goes last: the page is unmapped by then.
  const ForkGuard guard_;
  const std::shared_ptr<LocalConnection> connection_;
  const MappedSegment segment_;
  const shm::SessionPage page_;
  const uint64_t budget_bytes_;

  // Synchronize themselves.
  PinSlots slots_;
  alignas(64) std::atomic<uint64_t> pinned_bytes_{0};
  std::atomic<bool> asking_for_slots_{false};
  std::atomic<bool> grants_slots_{true};
};

}  // namespace infercache
