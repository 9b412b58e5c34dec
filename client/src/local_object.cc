#include "client/src/local_object.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "common/crc32c.h"
#include "common/part_table.h"
#include "common/shm/reader.h"

namespace infercache {
namespace {

// In a forked child both are inert: the page is not mapped there, and it is the parent's pin.
class PinStorage final : public ArenaStorage {
 public:
  PinStorage(std::shared_ptr<ArenaChunk> chunk, uint32_t slot, const LocalPlace& place)
      : ArenaStorage(std::move(chunk), place), slot_(slot) {}
  ~PinStorage() override {
    SessionPins& pins = *chunk().pins();
    if (pins.inherited()) return;
    shm::Unpin(pins.slots().slot(slot_));
    pins.slots().Free(slot_);
    pins.ReturnBudget(place().size_bytes);
  }

 private:
  const uint32_t slot_;
};

class LeaseStorage final : public ArenaStorage {
 public:
  LeaseStorage(std::shared_ptr<ArenaChunk> chunk, uint64_t lease, const LocalPlace& place)
      : ArenaStorage(std::move(chunk), place), lease_(lease) {}
  ~LeaseStorage() override {
    SessionPins& pins = *chunk().pins();
    if (pins.inherited()) return;
    v1::LocalRequest request;
    request.mutable_release()->add_leases(lease_);
    pins.connection().Tell(request);
    pins.ReturnBudget(place().size_bytes);
  }

 private:
  const uint64_t lease_;
};

}  // namespace

absl::StatusOr<LocalPlace> PlaceOf(const LocalSession& session, const shm::Record& record) {
  const LocalPlace place = {record.segment(), record.offset(), record.size()};
  if (session.Contains(place)) [[likely]]
    return place;
  return BadAnswer(absl::StrCat("a record of ", record.size(), " bytes at ", record.offset(),
                                " of chunk ", record.segment()));
}

absl::StatusOr<std::span<const std::byte>> BytesOf(const LocalSession& session,
                                                   const shm::Record& record) {
  const auto place = PlaceOf(session, record);
  if (!place.ok()) [[unlikely]]
    return place.status();
  if (session.on_device()) [[unlikely]] {
    return absl::FailedPreconditionError("the object is in the memory of a GPU");
  }
  return session.Place(place->chunk, place->offset, place->size_bytes);
}

absl::Status Describe(const LocalSession& session, const shm::Record& record, uint64_t now_ms,
                      std::vector<PartSpec>* parts, ObjectInfo* info) {
  const shm::IndexView& index = session.index();
  const std::string_view table = index.part_table(record);
  if (table.empty()) {
    *parts = {{.dtype = DataType::kBytes, .shape = {}, .size_bytes = record.size()}};
  } else {
    auto decoded = DecodePartTable(table);
    if (!decoded.ok()) return BadAnswer(decoded.status().message());
    // Object::part() must stay within the bytes.
    uint64_t left = record.size();
    for (const PartSpec& part : *decoded) {
      if (part.size_bytes > left) return BadAnswer("parts larger than their object");
      left -= part.size_bytes;
    }
    *parts = *std::move(decoded);
  }
  info->kind = record.kind();
  info->class_id = record.class_id();
  info->compute_cost_ms = record.compute_cost_ms;
  if (record.expiry_tick != 0) {
    const uint64_t end =
        index.header().expiry_epoch_ms + uint64_t{record.expiry_tick} * shm::kExpiryTickMs;
    info->ttl_ms = end > now_ms ? end - now_ms : 1;
  }
  return absl::OkStatus();
}

bool Intact(const LocalSession& session, const shm::Record& record,
            std::span<const std::byte> bytes) {
  return !session.checksums() || Crc32c(bytes) == record.checksum;
}

absl::Status CheckStillPinned(const Object::Storage& storage) {
  const auto* const in_arena = dynamic_cast<const ArenaStorage*>(&storage);
  if (in_arena == nullptr || !in_arena->chunk().pins()->RevokedMeanwhile()) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(
      "the daemon ended the session, so that the object may have changed while it was copied");
}

std::unique_ptr<Object::Storage> HoldPin(std::shared_ptr<ArenaChunk> chunk, uint32_t slot,
                                         const LocalPlace& place) {
  return std::make_unique<PinStorage>(std::move(chunk), slot, place);
}

std::unique_ptr<Object::Storage> HoldLease(std::shared_ptr<ArenaChunk> chunk, uint64_t lease,
                                           const LocalPlace& place) {
  return std::make_unique<LeaseStorage>(std::move(chunk), lease, place);
}

}  // namespace infercache
