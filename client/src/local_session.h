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

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
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

// What a device's client has made of the chunks of a session in a GPU's memory.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
};

class LoanBook;

// Where an object lies.
struct LocalPlace {
  uint32_t chunk = 0;
  uint64_t offset = 0;
  uint64_t size_bytes = 0;
};

class LocalSession : public std::enable_shared_from_this<LocalSession> {
 public:
  struct Segments {
    MappedSegment index;
    MappedSegment page;
    std::vector<MappedSegment> chunks;  // for reading: a view cannot be written through
    // The same again for whoever writes in place, and what only reservations and puts go through.
    std::vector<MappedSegment> writable_chunks;
    std::vector<UniqueFd> device_chunks;  // instead, where they are a GPU's memory
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
  // Whether there is such a place.
  bool Contains(const LocalPlace& place) const {
    return place.chunk < chunk_count_ && place.offset <= chunk_bytes_ &&
           place.size_bytes <= chunk_bytes_ - place.offset;
  }
  // [offset, offset + size) of a chunk; empty if it does not lie in it, or is no memory of the CPU.
  std::span<const std::byte> Place(uint32_t chunk, uint64_t offset, uint64_t size) const;
  // The same memory at another address; empty too where the client may not write in place.
  std::span<std::byte> WritablePlace(uint32_t chunk, uint64_t offset, uint64_t size) const;

  v1::Welcome::PutAccess put_access() const { return put_access_; }
  bool checksums() const { return checksums_; }
  bool single_flight() const { return single_flight_; }
  // What it lends and has borrowed; null: the daemon takes no part in that.
  const std::shared_ptr<LoanBook>& loans() const { return loans_; }
  // With the memory of a GPU: there is nothing here that the CPU could read or write.
  bool on_device() const { return on_device_; }
  // What make(descriptors, bytes of each) made of the chunks, which is kept as long as the session.
  // Called again after a failure.
  using MakeMemory = absl::FunctionRef<absl::StatusOr<std::shared_ptr<DeviceMemory>>(
      const std::vector<UniqueFd>& chunks, uint64_t chunk_bytes)>;
  absl::StatusOr<std::shared_ptr<DeviceMemory>> UseDeviceMemory(MakeMemory make)
      ABSL_LOCKS_EXCLUDED(device_mu_);
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

  // Fills in the page tables of a piece of the arena ahead of its use, what is read before what is
  // written. False = all is filled in. One thread.
  bool PopulateStep();

  // Of this process, or of a parent.
  bool inherited() const { return guard_.inherited(); }

 private:
  LocalSession(const v1::Welcome& welcome, const Hash128& fingerprint, Segments segments,
               std::shared_ptr<LocalConnection> connection);

  // Constant after construction. The connection goes last: what it pins is unmapped by then.
  const ForkGuard guard_;
  const std::shared_ptr<LocalConnection> connection_;
  Segments segments_;  // but for device_chunks, which go once they are of no use
  const shm::IndexView index_;
  const shm::SessionPage page_;
  const Hash128 fingerprint_;
  const v1::Welcome::PutAccess put_access_;
  const bool checksums_;
  const bool single_flight_;
  const bool on_device_;
  const std::shared_ptr<LoanBook> loans_;
  const uint64_t pin_budget_bytes_;
  const uint32_t chunk_count_;
  const uint64_t chunk_bytes_;

  // Synchronize themselves.
  PinSlots slots_;
  alignas(64) std::atomic<uint64_t> pinned_bytes_{0};
  std::atomic<bool> asking_for_slots_{false};
  std::atomic<bool> grants_slots_{true};
  Mutex beyond_budget_;
  Mutex device_mu_;
  std::shared_ptr<DeviceMemory> device_memory_ ABSL_GUARDED_BY(device_mu_);

  // The populating thread's.
  size_t populated_segments_ = 0;
  uint64_t populated_bytes_ = 0;  // of the next one
};

}  // namespace infercache
