// Putting: the checks, Reserve, Commit and Abort.

#include "absl/strings/str_cat.h"
#include "common/crc32c.h"
#include "common/limits.h"
#include "common/part_table.h"
#include "common/status_macros.h"
#include "server/store/namespace_impl.h"

namespace infercache::store {
namespace {

absl::Status CheckInfo(const ObjectInfo& info) {
  if (static_cast<uint8_t>(info.kind) > kLastObjectKind) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown object kind ", static_cast<int>(info.kind)));
  }
  if (info.class_id > kMaxClassId) {
    return absl::InvalidArgumentError(
        absl::StrCat("class id ", info.class_id, "; the limit is ", kMaxClassId));
  }
  if (info.ttl_ms > kMaxTtlMs) {
    return absl::InvalidArgumentError(
        absl::StrCat("TTL of ", info.ttl_ms, " ms; the limit is ", kMaxTtlMs));
  }
  if (!(info.compute_cost_ms >= 0 && info.compute_cost_ms <= kMaxComputeCostMs)) {  // also NaN
    return absl::InvalidArgumentError(absl::StrCat("compute cost of ", info.compute_cost_ms,
                                                   " ms; it must be 0 to ", kMaxComputeCostMs));
  }
  if (info.parent_key.size() > kMaxKeyBytes) {
    return absl::InvalidArgumentError(absl::StrCat("parent key of ", info.parent_key.size(),
                                                   " bytes; the limit is ", kMaxKeyBytes));
  }
  return absl::OkStatus();
}

absl::Status CheckPut(const PutSpec& spec, uint64_t largest_object) {
  if (spec.id.key.empty()) return absl::InvalidArgumentError("the key is empty");
  if (spec.id.key.size() > kMaxKeyBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("key of ", spec.id.key.size(), " bytes; the limit is ", kMaxKeyBytes));
  }
  if (spec.size_bytes > kMaxObjectBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("object of ", spec.size_bytes, " bytes; the limit is ", kMaxObjectBytes));
  }
  if (spec.size_bytes > largest_object) {
    return absl::ResourceExhaustedError(absl::StrCat("object of ", spec.size_bytes,
                                                     " bytes; the namespace's arena chunks have ",
                                                     largest_object));
  }
  return spec.info == nullptr ? absl::OkStatus() : CheckInfo(*spec.info);
}

}  // namespace

absl::StatusOr<std::optional<Room>> Namespace::Impl::Reserve(const PutSpec& spec,
                                                             const Hash128& hash) {
  if (closed())
    return absl::UnavailableError(absl::StrCat("namespace ", spec_.name, " is deleted"));
  RETURN_IF_ERROR(CheckPut(spec, space_->largest_object_bytes()));
  ASSIGN_OR_RETURN(const std::string table, EncodePartTable(spec.parts, spec.size_bytes));
  if (!spec.overwrite) {
    Removed removed;
    bool exists = false;
    Shard& shard = ShardOf(hash);
    {
      MutexLock lock(&shard.mu);
      if (const uint32_t record = FindLive(shard, hash, spec.id.key, &removed); record != 0) {
        Touch(shard, record, spec.use);
        ++shard.exists;
        exists = true;
      }
    }
    Finish(removed);
    if (exists) return std::nullopt;
  }
  std::optional<Room> room = MakeRoom(spec.size_bytes, spec.id.key.size() + table.size());
  if (!room.has_value()) {
    refused_.fetch_add(1, std::memory_order_relaxed);
    return absl::ResourceExhaustedError(absl::StrCat("namespace ", spec_.name, " has no room for ",
                                                     spec.size_bytes,
                                                     " bytes: too much of it is in use"));
  }
  Fill(spec, *room, hash, table);
  return room;
}

void Namespace::Impl::Fill(const PutSpec& spec, const Room& room, const Hash128& hash,
                           std::string_view table) {
  static const ObjectInfo kDefaults;
  const ObjectInfo& info = spec.info == nullptr ? kDefaults : *spec.info;
  const std::string_view key = spec.id.key;
  const bool in_heap = room.heap_offset.has_value();
  shm::Record& record = index().record(room.record);
  record.hash_lo = hash.lo;
  record.hash_hi = hash.hi;
  record.place = shm::Record::MakePlace(room.segment, room.offset);
  record.bits =
      shm::Record::MakeBits(spec.size_bytes, info.kind, info.class_id, key.size(), in_heap);
  record.expiry_tick = 0;  // counts from Commit
  record.checksum = 0;
  record.compute_cost_ms = info.compute_cost_ms;
  record.meta_size = static_cast<uint16_t>(key.size() + table.size());
  char* meta = record.meta;
  if (in_heap) {
    std::memcpy(record.meta, &*room.heap_offset, sizeof *room.heap_offset);
    meta = reinterpret_cast<char*>(index().heap() + *room.heap_offset);
  }
  std::memcpy(meta, key.data(), key.size());
  if (!table.empty()) std::memcpy(meta + key.size(), table.data(), table.size());
  space_->state(room.record)
      .shard.store(static_cast<uint16_t>(index_.shard_of(hash)), std::memory_order_relaxed);
}

uint32_t Namespace::Impl::ExpiryTick(uint64_t ttl_ms) const {
  if (ttl_ms == 0) return 0;
  const uint64_t since_epoch = now_ms() + ttl_ms - index().header().expiry_epoch_ms;
  const uint64_t tick = (since_epoch + shm::kExpiryTickMs - 1) / shm::kExpiryTickMs;
  return static_cast<uint32_t>(std::min<uint64_t>(tick, UINT32_MAX));
}

absl::StatusOr<CommitOutcome> Namespace::Impl::Commit(uint32_t number, const PendingPut& pending,
                                                      const UseContext& use) {
  shm::Record& record = index().record(number);
  if (spec_.checksums) record.checksum = Crc32c(space_->BytesOf(record));
  const Ranking::Anchor anchor = FindAnchor(use.anchor.value_or(pending.parent));
  const Hash128 hash = record.hash();
  Shard& shard = ShardOf(hash);
  Removed removed;
  absl::StatusOr<CommitOutcome> outcome = CommitOutcome::kStored;
  {
    MutexLock lock(&shard.mu);
    const uint32_t existing = FindLive(shard, hash, index().key(record), &removed);
    const uint64_t generation = record.generation.load(std::memory_order_relaxed);
    if (closed()) {
      outcome = absl::UnavailableError(absl::StrCat("namespace ", spec_.name, " is deleted"));
    } else if (existing != 0 && !pending.overwrite) {
      Touch(shard, existing, use);
      ++shard.exists;
      outcome = CommitOutcome::kExists;
    } else {
      record.expiry_tick = pending.expiry_tick.value_or(ExpiryTick(pending.ttl_ms));
      // A new entry is linked while the generation is odd, which readers take for a change in
      // flight: if it finds no place it was never visible. A replacement always finds its place.
      if (existing != 0) {
        record.generation.store(generation + 1, std::memory_order_release);
        index_.Replace(hash, existing, number);
        RetireUnlinked(shard, existing, EventKind::kReplaced, &removed);
      } else if (Link(shard, hash, number, &removed)) {
        record.generation.store(generation + 1, std::memory_order_release);
      } else {
        refused_.fetch_add(1, std::memory_order_relaxed);
        outcome =
            absl::ResourceExhaustedError("every object that shares this key's bucket is in use");
      }
    }
    if (outcome.ok() && *outcome == CommitOutcome::kStored) {
      Publish(shard, number, use, anchor, /*replaces=*/existing != 0, &removed);
    } else {
      space_->FreeReserved(number);
    }
  }
  Finish(removed);
  return outcome;
}

Ranking::Anchor Namespace::Impl::FindAnchor(const Hash128& hash) {
  if (hash == Hash128()) return {};
  Ranking::Anchor anchor{.hash = hash.lo};
  Shard& shard = ShardOf(hash);
  MutexLock lock(&shard.mu);
  index_.ForEachInChain(hash, [&](uint32_t number) {
    const shm::Record& record = index().record(number);
    if (record.hash() != hash) return;
    anchor.pin = shm::MakePin(number, record.generation.load(std::memory_order_relaxed));
  });
  return anchor;
}

bool Namespace::Impl::Link(Shard& shard, const Hash128& hash, uint32_t record, Removed* removed) {
  if (index_.Insert(hash, record)) return true;
  // The chain has reached its bound, or its shard has no overflow bucket left. The chain's coldest
  // object gives way, like any other victim.
  const PinnedSet pinned = limbo_.Scan();
  uint32_t coldest = 0;
  index_.ForEachInChain(hash, [&](uint32_t candidate) {
    const RecordState& state = space_->state(candidate);
    if (state.pins.load(std::memory_order_relaxed) != 0 || pinned.Contains(candidate)) return;
    if (coldest == 0 || state.stamp.load(std::memory_order_relaxed) <
                            space_->state(coldest).stamp.load(std::memory_order_relaxed)) {
      coldest = candidate;
    }
  });
  if (coldest == 0) return false;
  Retire(shard, coldest, EventKind::kEvicted, removed);
  return index_.Insert(hash, record);
}

void Namespace::Impl::Publish(Shard&, uint32_t number, const UseContext& use,
                              const Ranking::Anchor& anchor, bool replaces, Removed* removed) {
  space_->MoveToVisible(number);
  ranking_->Arrived(number, use.request, use.ends_request, anchor, replaces, policy_ms());
  // Last, so that who looks for cold neighbours never takes it by the stamp it had before.
  space_->state(number).phase.store(Phase::kVisible, std::memory_order_release);
  if (index().record(number).expiry_tick != 0) {
    expiring_objects_.fetch_add(1, std::memory_order_relaxed);
  }
  stored_.fetch_add(1, std::memory_order_relaxed);
  removed->events.push_back(MakeEvent(EventKind::kStored, number));
}

void Namespace::Impl::Abort(uint32_t record) { space_->FreeReserved(record); }

}  // namespace infercache::store
