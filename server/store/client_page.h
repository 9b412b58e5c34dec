// One client's session page as the daemon keeps it: the memory, what the client may use of it, and
// how far its touch rings and counters have been read. The client writes the page as it likes;
// everything here holds whatever it says.
//
// Thread-safe. Shared by the session that made it and, while it is attached, its namespace.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "common/memory_segment.h"
#include "common/mutex.h"
#include "common/shm/session_page.h"

namespace infercache::store {

// What clients counted themselves. Totals, which stop at 2^62 instead of wrapping, whatever clients
// claim.
struct ClientCounters {
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t hit_bytes = 0;
  uint64_t saved_compute_us = 0;

  void Add(const ClientCounters& other);
};

class ClientPage {
 public:
  // A page of kMaxPinSlots slots, `slot_limit` of which count. Memory is taken as it is used.
  // RESOURCE_EXHAUSTED: out of descriptors or memory.
  static absl::StatusOr<std::shared_ptr<ClientPage>> Create(uint32_t slot_limit);
  ClientPage(const ClientPage&) = delete;
  ClientPage& operator=(const ClientPage&) = delete;

  // For the client. Owned by the page.
  int fd() const { return memory_.fd(); }
  std::span<std::byte> memory() const { return memory_.bytes(); }
  uint32_t slot_capacity() const { return page_.slot_capacity(); }

  uint32_t slot_limit() const { return slot_limit_.load(std::memory_order_seq_cst); }
  // REQUIRES: at most slot_capacity(), and no less than before.
  void RaiseSlotLimit(uint32_t slots) { slot_limit_.store(slots, std::memory_order_seq_cst); }

  // Calls f(pin) for every slot in use, in one pass of seq_cst loads. A pin may be any word.
  template <class F>
  void ForEachPin(F f) const {
    const uint32_t in_use = std::min(page_.slots_in_use(), slot_limit());
    for (uint32_t i = 0; i < in_use; ++i) {
      const uint64_t pin = page_.slot(i).load(std::memory_order_seq_cst);
      if (pin != 0) f(pin);
    }
  }

  using ApplyTouch = absl::FunctionRef<void(uint64_t touch, bool begins_request)>;
  // Takes at most `limit` touches out of the rings, each ring's oldest first, and calls
  // apply(touch, begins_request) for each; the second is false if it goes on with the request of
  // the touch before it in its ring. A touch may be any word. Returns how many were taken; fewer
  // than `limit` = the rings are empty.
  size_t TakeTouches(size_t limit, ApplyTouch apply) ABSL_LOCKS_EXCLUDED(drain_mu_);
  // The same, but takes none if somebody else is at it.
  size_t TryTakeTouches(size_t limit, ApplyTouch apply) ABSL_LOCKS_EXCLUDED(drain_mu_);

  // What the client counted since the last call. A counter that moved backwards or leapt beyond
  // what a machine can do (2^40 calls, 2^56 bytes or microseconds) counts for nothing.
  ClientCounters TakeCounters() ABSL_LOCKS_EXCLUDED(counters_mu_);

  // Tells the client that its pins have stopped counting; Namespace::DetachPage makes it so.
  void Revoke() { page_.Revoke(); }

 private:
  ClientPage(MemorySegment memory, uint32_t slot_limit);
  size_t TakeTouchesLocked(size_t limit, ApplyTouch apply) ABSL_EXCLUSIVE_LOCKS_REQUIRED(drain_mu_);

  // Constant after construction.
  const MemorySegment memory_;
  shm::SessionPage page_;

  std::atomic<uint32_t> slot_limit_;

  Mutex drain_mu_;
  // Private: the page's own copy, for the client, is the client's to spoil.
  std::array<uint64_t, shm::kLanes> drained_ ABSL_GUARDED_BY(drain_mu_) = {};
  std::array<bool, shm::kLanes> mid_request_ ABSL_GUARDED_BY(drain_mu_) = {};
  uint32_t next_lane_ ABSL_GUARDED_BY(drain_mu_) = 0;

  Mutex counters_mu_;
  std::array<ClientCounters, shm::kLanes> seen_ ABSL_GUARDED_BY(counters_mu_) = {};
};

}  // namespace infercache::store
