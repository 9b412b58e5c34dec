// One session of the same-host lane as its client has it: the mapped segments, what is free in
// them, and the connection that keeps the daemon from reusing what the session pins.
//
// Shared: by the client, for new hits, and by every view and reservation, so that what they point
// to stays mapped and pinned whatever becomes of the client or the daemon. Thread-safe.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/src/fork_guard.h"
#include "client/src/load_barrier.h"
#include "client/src/local_connection.h"
#include "client/src/mapped_segment.h"
#include "client/src/pin_slots.h"
#include "common/hash.h"
#include "common/mutex.h"
#include "common/shm/index_layout.h"
#include "common/shm/session_page.h"
#include "infercache/v1/local.pb.h"

namespace infercache {

// The numbers of a Welcome, as far as they can be checked without the segments. INTERNAL names what
// makes no sense.
absl::Status CheckWelcome(const v1::Welcome& welcome);

class LocalSession : public std::enable_shared_from_this<LocalSession> {
 public:
  struct Segments {
    MappedSegment index;
    MappedSegment page;
    std::vector<MappedSegment> chunks;
  };

  // INTERNAL: the segments' headers are not what `welcome` says. REQUIRES: CheckWelcome(welcome);
  // the segments have the sizes it names.
  static absl::StatusOr<std::shared_ptr<LocalSession>> Make(
      const v1::Welcome& welcome, const Hash128& fingerprint, Segments segments,
      std::shared_ptr<LocalConnection> connection);
  LocalSession(const LocalSession&) = delete;
  LocalSession& operator=(const LocalSession&) = delete;

  // Whether a pin made now would count: a few loads.
  bool alive() const { return !connection_->broken() && !page_.revoked(); }
  // After bytes were copied out: whether they may have changed meanwhile.
  bool RevokedMeanwhile() const {
    LoadBarrier();
    return page_.revoked();
  }

  const shm::IndexView& index() const { return index_; }
  const shm::SessionPage& page() const { return page_; }
  PinSlots& slots() { return slots_; }
  Hash128 HashOf(std::string_view key) const {
    return HashKey(index_.header().hash_seed, fingerprint_, key);
  }
  // [offset, offset + size) of a chunk; empty if it does not lie in it.
  std::span<std::byte> Place(uint32_t chunk, uint64_t offset, uint64_t size) const;

  v1::Welcome::PutAccess put_access() const { return put_access_; }
  bool checksums() const { return checksums_; }
  bool single_flight() const { return single_flight_; }
  uint64_t pin_budget_bytes() const { return pin_budget_bytes_; }
  LocalConnection& connection() const { return *connection_; }

  // Takes `bytes` out of what the session may still hold pinned; false if that is less.
  bool TakeBudget(uint64_t bytes);
  void ReturnBudget(uint64_t bytes) { pinned_bytes_.fetch_sub(bytes, std::memory_order_relaxed); }
  // Held by whoever copies an object beyond the budget: one at a time.
  Mutex& beyond_budget() { return beyond_budget_; }

  // Asks the daemon for so many slots, without waiting, unless that is under way.
  void AskForSlots(uint32_t slots);
  // Whether waiting for more slots is worth while: not after it took a whole deadline, until the
  // daemon grants some.
  bool grants_slots() const { return grants_slots_.load(std::memory_order_relaxed); }
  // What the daemon answered to somebody who waited; 0 = nothing, in time.
  void SlotsGranted(uint32_t limit);

  // Maps a piece of the arena ahead of its use. False = all of it is. One thread.
  bool PopulateStep();

  // Of this process, or of a parent.
  bool inherited() const { return guard_.inherited(); }

 private:
  LocalSession(const v1::Welcome& welcome, const Hash128& fingerprint, Segments segments,
               std::shared_ptr<LocalConnection> connection);

  // Constant after construction. The connection goes last: what it pins is unmapped by then.
  const ForkGuard guard_;
  const std::shared_ptr<LocalConnection> connection_;
  const Segments segments_;
  const shm::IndexView index_;
  const shm::SessionPage page_;
  const Hash128 fingerprint_;
  const v1::Welcome::PutAccess put_access_;
  const bool checksums_;
  const bool single_flight_;
  const uint64_t pin_budget_bytes_;
  const uint64_t chunk_bytes_;

  // Synchronize themselves.
  PinSlots slots_;
  alignas(64) std::atomic<uint64_t> pinned_bytes_{0};
  std::atomic<bool> asking_for_slots_{false};
  std::atomic<bool> grants_slots_{true};
  Mutex beyond_budget_;

  // The populating thread's.
  uint64_t populated_bytes_ = 0;
};

}  // namespace infercache
