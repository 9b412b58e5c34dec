// From a pinned record to what the caller gets.

#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "client/src/local_session.h"
#include "common/shm/index_layout.h"
#include "infercache/client.h"

namespace infercache {

// Where a pinned record's bytes are; INTERNAL if the record names a place outside of the arena.
absl::StatusOr<LocalPlace> PlaceOf(const LocalSession& session, const shm::Record& record);
// The bytes of a pinned record; as PlaceOf, and FAILED_PRECONDITION if they are in a GPU.
absl::StatusOr<std::span<const std::byte>> BytesOf(const LocalSession& session,
                                                   const shm::Record& record);

// Its parts and what is known about it, as they are at `now_ms` of the daemon's clock. INTERNAL if
// the part table is none.
absl::Status Describe(const LocalSession& session, const shm::Record& record, uint64_t now_ms,
                      std::vector<PartSpec>* parts, ObjectInfo* info);

// Whether the bytes are those that were committed, as far as their checksum can tell.
bool Intact(const LocalSession& session, const shm::Record& record,
            std::span<const std::byte> bytes);

// What keeps an object in the arena.
class ArenaStorage : public Object::Storage {
 public:
  ArenaStorage(std::shared_ptr<ArenaChunk> chunk, const LocalPlace& place)
      : chunk_(std::move(chunk)), place_(place) {}
  bool zero_copy() const final { return true; }
  ArenaChunk& chunk() const { return *chunk_; }
  const LocalPlace& place() const { return place_; }

 private:
  const std::shared_ptr<ArenaChunk> chunk_;
  const LocalPlace place_;
};

// After bytes that `storage` keeps were copied: UNAVAILABLE if it keeps a pin that does not count
// any more, so that they may have changed meanwhile.
absl::Status CheckStillPinned(const Object::Storage& storage);

// Keeps a claimed slot's pin, and its bytes of the budget, until it is destroyed. `place` is in
// `chunk`.
std::unique_ptr<Object::Storage> HoldPin(std::shared_ptr<ArenaChunk> chunk, uint32_t slot,
                                         const LocalPlace& place);
// Keeps a lease of the daemon's, and its bytes of the budget.
std::unique_ptr<Object::Storage> HoldLease(std::shared_ptr<ArenaChunk> chunk, uint64_t lease,
                                           const LocalPlace& place);

}  // namespace infercache
