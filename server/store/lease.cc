#include "server/store/lease.h"

#include <utility>

#include "common/part_table.h"
#include "server/store/namespace_impl.h"

namespace infercache::store {

WriteLease::WriteLease(std::shared_ptr<Namespace> ns, uint32_t record, std::span<std::byte> bytes,
                       const PendingPut& pending)
    : namespace_(std::move(ns)), record_(record), bytes_(bytes), pending_(pending) {}

WriteLease::WriteLease(WriteLease&& other) noexcept = default;

WriteLease& WriteLease::operator=(WriteLease&& other) noexcept {
  // The old claim goes with the temporary.
  WriteLease taken(std::move(other));
  std::swap(namespace_, taken.namespace_);
  std::swap(record_, taken.record_);
  std::swap(bytes_, taken.bytes_);
  std::swap(pending_, taken.pending_);
  return *this;
}

uint64_t WriteLease::size_bytes() const {
  return namespace_->impl_->index().record(record_).size();
}

Place WriteLease::place() const {
  const shm::Record& record = namespace_->impl_->index().record(record_);
  return {record.segment(), record.offset()};
}

void WriteLease::Quarantine() { namespace_->impl_->Quarantine(record_); }

WriteLease::~WriteLease() {
  if (namespace_ != nullptr) namespace_->Abort(record_);
}

ReadLease::ReadLease(std::shared_ptr<Namespace> ns, uint32_t record,
                     std::span<const std::byte> bytes)
    : namespace_(std::move(ns)), record_(record), bytes_(bytes) {}

ReadLease::ReadLease(ReadLease&& other) noexcept = default;

ReadLease& ReadLease::operator=(ReadLease&& other) noexcept {
  ReadLease taken(std::move(other));
  std::swap(namespace_, taken.namespace_);
  std::swap(record_, taken.record_);
  std::swap(bytes_, taken.bytes_);
  return *this;
}

ReadLease::~ReadLease() {
  if (namespace_ != nullptr) namespace_->Unpin(record_);
}

uint64_t ReadLease::size_bytes() const { return namespace_->impl_->index().record(record_).size(); }

Place ReadLease::place() const {
  const shm::Record& record = namespace_->impl_->index().record(record_);
  return {record.segment(), record.offset()};
}

std::string_view ReadLease::key() const {
  const shm::IndexView& index = namespace_->impl_->index();
  return index.key(index.record(record_));
}

ObjectInfo ReadLease::info() const {
  return namespace_->impl_->InfoOf(namespace_->impl_->index().record(record_));
}

std::vector<PartSpec> ReadLease::parts() const {
  const shm::IndexView& index = namespace_->impl_->index();
  // What the daemon encoded itself decodes.
  return *DecodePartTable(index.part_table(index.record(record_)));
}

}  // namespace infercache::store
