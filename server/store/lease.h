// The two claims on an object's bytes, as types: WriteLease (reserved, invisible) and ReadLease
// (visible, pinned). Both are move-only and give back in their destructor. Either may be used by
// one thread at a time, moved to and destroyed on any thread. Both keep their namespace alive.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "common/hash.h"
#include "infercache/types.h"

namespace infercache::store {

class Namespace;

// What a reservation has to remember until it is committed.
struct PendingPut {
  uint64_t ttl_ms = 0;                       // from the commit on
  std::optional<uint32_t> expiry_tick = {};  // in its place: of the index, 0 = never
  Hash128 parent = {};  // ObjectInfo::parent_key, see Namespace::ChainHash; zero = none
  bool overwrite = false;
};

// Where an object's bytes lie, for whoever maps the arena.
struct Place {
  uint32_t chunk = 0;
  uint64_t offset = 0;
};

// A reservation: bytes that nobody else can see. Destroyed uncommitted = aborted.
class WriteLease {
 public:
  WriteLease(WriteLease&& other) noexcept;
  WriteLease& operator=(WriteLease&& other) noexcept;
  ~WriteLease();

  // The object's bytes, all parts back to back; uninitialized until written. Valid until Commit or
  // destruction. Writing needs no lock. None in a GPU's memory, which only clients can touch.
  std::span<std::byte> bytes() const { return bytes_; }
  // The object's, wherever it is.
  uint64_t size_bytes() const;
  Place place() const;
  // Of its parent, zero if it has none: what UseContext::anchor is for a chain that goes on there.
  const Hash128& parent() const { return pending_.parent; }
  // The writer's session is over or the reservation expired, but its process may still write:
  // nobody may have the bytes before this is destroyed, and the books call them quarantined.
  // REQUIRES: it will not be committed.
  void Quarantine();

 private:
  friend class Namespace;
  WriteLease(std::shared_ptr<Namespace> ns, uint32_t record, std::span<std::byte> bytes,
             const PendingPut& pending);

  std::shared_ptr<Namespace> namespace_;  // null = moved from or committed
  uint32_t record_ = 0;
  std::span<std::byte> bytes_;
  PendingPut pending_;
};

// A pin: the object cannot change and its bytes cannot be reused while this lives.
class ReadLease {
 public:
  ReadLease(ReadLease&& other) noexcept;
  ReadLease& operator=(ReadLease&& other) noexcept;
  ~ReadLease();

  // None in a GPU's memory, which only clients can touch.
  std::span<const std::byte> bytes() const { return bytes_; }
  // The object's, wherever it is.
  uint64_t size_bytes() const;
  Place place() const;
  std::string_view key() const;
  // Without parent_key, which the store does not keep; ttl_ms is what is left, 0 = never expires.
  ObjectInfo info() const;
  // Empty = one part of plain bytes.
  std::vector<PartSpec> parts() const;

 private:
  friend class Namespace;
  ReadLease(std::shared_ptr<Namespace> ns, uint32_t record, std::span<const std::byte> bytes);

  std::shared_ptr<Namespace> namespace_;
  uint32_t record_ = 0;
  std::span<const std::byte> bytes_;
};

}  // namespace infercache::store
