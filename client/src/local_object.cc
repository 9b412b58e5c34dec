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
class PinStorage final : public Object::Storage {
 public:
  PinStorage(std::shared_ptr<LocalSession> session, uint32_t slot, uint64_t bytes)
      : session_(std::move(session)), bytes_(bytes), slot_(slot) {}
  ~PinStorage() override {
    if (session_->inherited()) return;
    shm::Unpin(session_->slots().slot(slot_));
    session_->slots().Free(slot_);
    session_->ReturnBudget(bytes_);
  }
  bool zero_copy() const override { return true; }

 private:
  const std::shared_ptr<LocalSession> session_;
  const uint64_t bytes_;
  const uint32_t slot_;
};

class LeaseStorage final : public Object::Storage {
 public:
  LeaseStorage(std::shared_ptr<LocalSession> session, uint64_t lease, uint64_t bytes)
      : session_(std::move(session)), lease_(lease), bytes_(bytes) {}
  ~LeaseStorage() override {
    if (session_->inherited()) return;
    v1::LocalRequest request;
    request.mutable_release()->add_leases(lease_);
    session_->connection().Tell(request);
    session_->ReturnBudget(bytes_);
  }
  bool zero_copy() const override { return true; }

 private:
  const std::shared_ptr<LocalSession> session_;
  const uint64_t lease_;
  const uint64_t bytes_;
};

}  // namespace

absl::StatusOr<std::span<const std::byte>> BytesOf(const LocalSession& session,
                                                   const shm::Record& record) {
  const std::span<std::byte> bytes =
      session.Place(record.segment(), record.offset(), record.size());
  if (bytes.size() != record.size()) [[unlikely]] {
    return BadAnswer(absl::StrCat("a record of ", record.size(), " bytes at ", record.offset(),
                                  " of chunk ", record.segment()));
  }
  return bytes;
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

std::unique_ptr<Object::Storage> HoldPin(std::shared_ptr<LocalSession> session, uint32_t slot,
                                         uint64_t bytes) {
  return std::make_unique<PinStorage>(std::move(session), slot, bytes);
}

std::unique_ptr<Object::Storage> HoldLease(std::shared_ptr<LocalSession> session, uint64_t lease,
                                           uint64_t bytes) {
  return std::make_unique<LeaseStorage>(std::move(session), lease, bytes);
}

}  // namespace infercache
