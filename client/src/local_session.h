// One session of the same-host lane as its client has it: the mapped segments, and what is free in
// them.
//
// Shared by the client and by whoever reads at the moment. Views and reservations do not keep it,
// but each its chunk and the session's pins: when the daemon is gone, so is all else. Thread-safe.

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/src/arena_chunk.h"
#include "client/src/local_connection.h"
#include "client/src/mapped_segment.h"
#include "client/src/session_pins.h"
#include "common/hash.h"
#include "common/mutex.h"
#include "common/shm/index_layout.h"
#include "common/shm/session_page.h"
#include "infercache/v1/local.pb.h"

namespace infercache {

// The numbers of a Welcome, as far as they can be checked without the segments. INTERNAL names what
// makes no sense.
absl::Status CheckWelcome(const v1::Welcome& welcome);

class LoanBook;

// Where an object lies.
struct LocalPlace {
  uint32_t chunk = 0;
  uint64_t offset = 0;
  uint64_t size_bytes = 0;
};

class LocalSession {
 public:
  struct Segments {
    MappedSegment index;
    MappedSegment page;
    std::vector<MappedSegment> chunks;           // for reading
    std::vector<MappedSegment> writable_chunks;  // the same again for whoever writes in place
    std::vector<UniqueFd> device_chunks;         // instead, where they are a GPU's memory
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
  // As SessionPins'.
  bool RevokedMeanwhile() const { return pins_->RevokedMeanwhile(); }

  const shm::IndexView& index() const { return index_; }
  const shm::SessionPage& page() const { return page_; }
  const std::shared_ptr<SessionPins>& pins() const { return pins_; }
  PinSlots& slots() const { return pins_->slots(); }
  Hash128 HashOf(std::string_view key) const {
    return HashKey(index_.header().hash_seed, fingerprint_, key);
  }
  // REQUIRES: a place that the session contains.
  const std::shared_ptr<ArenaChunk>& ChunkOf(const LocalPlace& place) const {
    return chunks_[place.chunk];
  }
  // Whether there is such a place.
  bool Contains(const LocalPlace& place) const {
    return place.chunk < chunks_.size() && place.offset <= chunk_bytes_ &&
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
  LocalConnection& connection() const { return *connection_; }

  // Held by whoever copies an object beyond the budget: one at a time.
  Mutex& beyond_budget() { return beyond_budget_; }

  // Fills in the page tables of a piece of the arena ahead of its use, what is read before what is
  // written. False = all is filled in. One thread.
  bool PopulateStep();

 private:
  LocalSession(const v1::Welcome& welcome, const Hash128& fingerprint, Segments segments,
               std::shared_ptr<LocalConnection> connection);

  // Constant after construction. The connection goes last: what it pins is unmapped by then, or
  // kept by who holds it, and then so is the connection.
  const std::shared_ptr<LocalConnection> connection_;
  const MappedSegment index_segment_;
  const shm::IndexView index_;
  const std::shared_ptr<SessionPins> pins_;
  const shm::SessionPage page_;  // the pins'
  const Hash128 fingerprint_;
  const v1::Welcome::PutAccess put_access_;
  const bool checksums_;
  const bool single_flight_;
  const bool on_device_;
  const std::shared_ptr<LoanBook> loans_;
  const uint64_t chunk_bytes_;
  std::vector<std::shared_ptr<ArenaChunk>> chunks_;

  alignas(64) Mutex beyond_budget_;  // apart from what every hit reads

  // The populating thread's.
  size_t populated_segments_ = 0;
  uint64_t populated_bytes_ = 0;  // of the next one
};

}  // namespace infercache
