#include "server/store/namespace.h"

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

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

uint64_t QuotaForLiveObjects(uint64_t objects, uint64_t object_bytes, uint64_t chunk_bytes) {
  constexpr uint64_t kTooMuch = std::numeric_limits<uint64_t>::max() / 4;
  uint64_t quota = 0;
  if (__builtin_mul_overflow(objects, object_bytes, &quota) || quota > kTooMuch) return kTooMuch;
  // The granule follows from the quota, and the quota from blocks rounded up to granules.
  for (int i = 0; i < 2; ++i) {
    const uint64_t granule = PlanArena(quota, chunk_bytes).granule_bytes;
    const uint64_t block = std::max((object_bytes + granule - 1) / granule, uint64_t{1}) * granule;
    uint64_t live = 0;
    if (__builtin_mul_overflow(objects, block, &live) || live > kTooMuch) return kTooMuch;
    quota = live + std::max(4 * block, live / 99 + 1);
    // No block spans two chunks: each may leave almost a block unused at its end.
    quota += (quota / chunk_bytes + 1) * std::min(block, chunk_bytes);
  }
  return quota;
}

absl::StatusOr<std::unique_ptr<Namespace::Impl>> Namespace::Impl::Create(
    NamespaceSpec spec, Environment environment, std::unique_ptr<Chunks> chunks) {
  IndexSegment::Options options;
  options.name = spec.name;
  options.max_objects = static_cast<uint32_t>(spec.max_objects);
  options.quota_bytes = spec.quota_bytes;
  options.shards = environment.shards;
  options.hash_seed = environment.hash_seed.has_value()
                          ? *environment.hash_seed
                          : uint64_t{std::random_device()()} << 32 | std::random_device()();
  // A tick of slack, so that a TTL that ends in the first tick does not become tick 0, "never".
  options.expiry_epoch_ms =
      environment.clock.NowMs() - std::min(environment.clock.NowMs(), shm::kExpiryTickMs);
  ASSIGN_OR_RETURN(IndexSegment segment, IndexSegment::Create(options));
  auto index = std::make_unique<IndexSegment>(std::move(segment));
  ASSIGN_OR_RETURN(std::unique_ptr<Space> space,
                   Space::Create(environment.arena, std::move(chunks), *index));
  ASSIGN_OR_RETURN(std::unique_ptr<Ranking> ranking,
                   Ranking::Create(spec.policy, *index, *space, environment.assumed_object_bytes));
  return std::unique_ptr<Impl>(new Impl(std::move(spec), std::move(environment), std::move(index),
                                        std::move(space), std::move(ranking)));
}

Namespace::Impl::Impl(NamespaceSpec spec, Environment environment,
                      std::unique_ptr<IndexSegment> index, std::unique_ptr<Space> space,
                      std::unique_ptr<Ranking> ranking)
    : claims(environment.clock, {.per_party = kMaxClaimsPerParty, .total = kMaxClaimsPerNamespace}),
      spec_(std::move(spec)),
      environment_(std::move(environment)),
      index_storage_(std::move(index)),
      index_(*index_storage_),
      space_(std::move(space)),
      ranking_(std::move(ranking)),
      limbo_(index_.view().header().record_capacity),
      started_ms_(environment_.clock.NowMs()),
      virtual_ms_(started_ms_),
      free_reserve_bytes_(space_->total_bytes() / 100) {
  for (uint32_t i = 0; i < environment_.shards; ++i) {
    shards_.push_back(std::make_unique<Shard>());
  }
}

Namespace::Impl::~Impl() = default;

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
  const bool in_heap = room.heap_block != BlockAllocator::kNoBlock;
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
    std::memcpy(record.meta, &room.heap_offset, sizeof room.heap_offset);
    std::memcpy(record.meta + sizeof room.heap_offset, &room.heap_block, sizeof room.heap_block);
    meta = reinterpret_cast<char*>(index().heap() + room.heap_offset);
  }
  std::memcpy(meta, key.data(), key.size());
  if (!table.empty()) std::memcpy(meta + key.size(), table.data(), table.size());
  RecordState& state = space_->state(room.record);
  state.overwrite = spec.overwrite;
  state.shard.store(static_cast<uint16_t>(index_.shard_of(hash)), std::memory_order_relaxed);
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
  RecordState& state = space_->state(number);
  if (spec_.checksums) record.checksum = Crc32c(space_->BytesOf(record));
  const uint64_t anchor = FindAnchor(use.anchor.value_or(pending.parent));
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
    } else if (existing != 0 && !state.overwrite) {
      Touch(shard, existing, use);
      ++shard.exists;
      outcome = CommitOutcome::kExists;
    } else {
      record.expiry_tick = ExpiryTick(pending.ttl_ms);
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

uint64_t Namespace::Impl::FindAnchor(const Hash128& hash) {
  if (hash == Hash128()) return 0;
  uint64_t anchor = 0;
  Shard& shard = ShardOf(hash);
  MutexLock lock(&shard.mu);
  index_.ForEachInChain(hash, [&](uint32_t number) {
    const shm::Record& record = index().record(number);
    if (record.hash() != hash) return;
    anchor = shm::MakePin(number, record.generation.load(std::memory_order_relaxed));
  });
  return anchor;
}

void Namespace::Impl::Publish(Shard&, uint32_t number, const UseContext& use, uint64_t anchor,
                              bool replaces, Removed* removed) {
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

uint32_t Namespace::Impl::Lookup(const ObjectId& id, bool touch, const UseContext& use) {
  const Hash128 hash = index_.HashOf(id.fingerprint, id.key);
  Shard& shard = ShardOf(hash);
  Removed removed;
  uint32_t found = 0;
  {
    MutexLock lock(&shard.mu);
    found = FindLive(shard, hash, id.key, &removed);
    if (found == 0) {
      ++shard.misses;
    } else {
      if (!spec_.checksums) CountHit(shard, index().record(found));  // else once it is verified
      space_->state(found).pins.fetch_add(1, std::memory_order_relaxed);
      daemon_pins_.fetch_add(1, std::memory_order_relaxed);
      if (touch) Touch(shard, found, use);
    }
  }
  Finish(removed);
  return found;
}

void Namespace::Impl::Unpin(uint32_t record) {
  RecordState& state = space_->state(record);
  daemon_pins_.fetch_sub(1, std::memory_order_relaxed);
  const bool last = state.pins.fetch_sub(1, std::memory_order_seq_cst) == 1;
  // From here on the record may be reused by others: what is read below is a hint. A record that
  // has waited in limbo for this pin is freed now, unless that takes a scan of clients' pages,
  // which can wait for the next upkeep. seq_cst on both sides: either this sees the phase that
  // Retire set, or whoever puts the record into limbo sees that the pin is gone.
  if (!last || state.phase.load(std::memory_order_seq_cst) != Phase::kLimbo) return;
  if (limbo_.TakeUnpinned(record, [this](uint32_t r) { return PinnedHere(r); })) {
    space_->FreeLimbo({&record, 1});
  } else if (limbo_.has_pages() && environment_.wake_maintenance) {
    environment_.wake_maintenance();
  }
}

bool Namespace::Impl::Verify(uint32_t number) {
  if (!spec_.checksums) return true;
  const shm::Record& record = index().record(number);
  const bool whole = Crc32c(space_->BytesOf(record)) == record.checksum;
  Removed removed;
  Shard& shard = ShardOf(record.hash());
  {
    MutexLock lock(&shard.mu);
    if (whole) {
      CountHit(shard, record);
    } else {
      ++shard.misses;
      integrity_failures_.fetch_add(1, std::memory_order_relaxed);
      if (space_->state(number).phase.load(std::memory_order_relaxed) == Phase::kVisible) {
        Retire(shard, number, EventKind::kErased, &removed);
      }
    }
  }
  Finish(removed);
  return whole;
}

void Namespace::Impl::CountHit(Shard& shard, const shm::Record& record) {
  ++shard.hits;
  shard.hit_bytes += record.size();
  shard.saved_compute_ms += static_cast<double>(record.compute_cost_ms);
}

std::optional<uint64_t> Namespace::Impl::Probe(const ObjectId& id, bool touch,
                                               const UseContext& use) {
  const Hash128 hash = index_.HashOf(id.fingerprint, id.key);
  Shard& shard = ShardOf(hash);
  Removed removed;
  std::optional<uint64_t> size;
  {
    MutexLock lock(&shard.mu);
    if (const uint32_t record = FindLive(shard, hash, id.key, &removed); record != 0) {
      size = index().record(record).size();
      if (touch) Touch(shard, record, use);
    }
  }
  Finish(removed);
  return size;
}

bool Namespace::Impl::Erase(const Hash128& hash, std::string_view key) {
  Shard& shard = ShardOf(hash);
  Removed removed;
  bool found = false;
  {
    MutexLock lock(&shard.mu);
    if (const uint32_t record = FindLive(shard, hash, key, &removed); record != 0) {
      Retire(shard, record, EventKind::kErased, &removed);
      found = true;
    }
  }
  Finish(removed);
  return found;
}

void Namespace::Impl::Close() {
  closed_.store(true, std::memory_order_release);
  Flush("");  // takes every shard's lock after the store: what commits later sees it
  claims.Close(absl::UnavailableError(absl::StrCat("namespace ", spec_.name, " is deleted")));
}

uint32_t Namespace::Impl::FindLive(Shard& shard, const Hash128& hash, std::string_view key,
                                   Removed* removed) {
  const uint32_t record = index_.Find(hash, key);
  if (record == 0 || !index().expired(index().record(record), now_ms())) return record;
  Retire(shard, record, EventKind::kExpired, removed);
  return 0;
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

void Namespace::Impl::Touch(Shard&, uint32_t record, const UseContext& use) {
  ranking_->Used(record, use.request, use.ends_request, policy_ms());
}

void Namespace::Impl::Retire(Shard& shard, uint32_t record, EventKind why, Removed* removed) {
  index_.Remove(index().record(record).hash(), record);
  RetireUnlinked(shard, record, why, removed);
}

void Namespace::Impl::RetireUnlinked(Shard&, uint32_t number, EventKind why, Removed* removed) {
  shm::Record& record = index().record(number);
  const uint64_t generation = record.generation.load(std::memory_order_relaxed);
  record.generation.store(generation + 1, std::memory_order_seq_cst);
  space_->state(number).phase.store(Phase::kLimbo, std::memory_order_seq_cst);
  ranking_->Left(number, why, policy_ms());
  if (record.expiry_tick != 0) expiring_objects_.fetch_sub(1, std::memory_order_relaxed);
  if (why == EventKind::kErased || why == EventKind::kFlushed) {
    erased_.fetch_add(1, std::memory_order_relaxed);
  } else if (why == EventKind::kExpired) {
    expired_.fetch_add(1, std::memory_order_relaxed);
  } else if (why == EventKind::kEvicted) {
    evicted_.fetch_add(1, std::memory_order_relaxed);
    evicted_bytes_.fetch_add(record.size(), std::memory_order_relaxed);
  }
  removed->retired.push_back(number);
  removed->events.push_back(MakeEvent(why, number));
}

Event Namespace::Impl::MakeEvent(EventKind kind, uint32_t number) {
  const shm::Record& record = index().record(number);
  Event event;
  event.sequence = next_event_.fetch_add(1, std::memory_order_relaxed);
  event.kind = kind;
  event.namespace_name = spec_.name;
  event.key_hash = record.hash();
  event.size_bytes = record.size();
  const uint64_t used_ms =
      RecencyClock::TimeMs(space_->state(number).stamp.load(std::memory_order_relaxed));
  event.idle_ms = policy_ms() > used_ms ? policy_ms() - used_ms : 0;
  return event;
}

ObjectInfo Namespace::Impl::InfoOf(const shm::Record& record) const {
  ObjectInfo info;
  info.kind = record.kind();
  info.class_id = record.class_id();
  info.compute_cost_ms = record.compute_cost_ms;
  if (record.expiry_tick != 0) {
    const uint64_t end =
        index().header().expiry_epoch_ms + uint64_t{record.expiry_tick} * shm::kExpiryTickMs;
    info.ttl_ms = end > now_ms() ? end - now_ms() : 1;
  }
  return info;
}

NamespaceStats Namespace::Impl::Stats() {
  NamespaceStats s;
  const SpaceUse use = space_->FullUse();
  s.quota_bytes = use.total_bytes;
  s.reserved_bytes = use.reserved_bytes;
  s.visible_bytes = use.visible_bytes;
  s.limbo_bytes = use.limbo_bytes;
  s.used_bytes = use.reserved_bytes + use.visible_bytes + use.limbo_bytes;
  s.quarantined_bytes = use.quarantined_bytes;
  s.limbo_age = space_->LimboByAge(limbo_.Waiting(), now_ms());
  s.objects = use.visible;
  s.max_objects = spec_.max_objects;
  s.reservations = use.reserved;
  s.pins = daemon_pins_.load(std::memory_order_relaxed);
  double saved_ms = 0;
  for (const auto& shard : shards_) {
    MutexLock lock(&shard->mu);
    s.hits += shard->hits;
    s.misses += shard->misses;
    s.hit_bytes += shard->hit_bytes;
    s.exists += shard->exists;
    saved_ms += shard->saved_compute_ms;
  }
  s.saved_compute_us = static_cast<uint64_t>(std::min(saved_ms * 1000, 1e19));
  s.client = TakeCounters();
  for (const auto& page : limbo_.Pages()) {
    ++s.client_pages;
    page->ForEachPin([&s](uint64_t) { ++s.client_pins; });
  }
  s.stored = stored_.load(std::memory_order_relaxed);
  s.refused = refused_.load(std::memory_order_relaxed);
  s.erased = erased_.load(std::memory_order_relaxed);
  s.expired = expired_.load(std::memory_order_relaxed);
  s.evicted = evicted_.load(std::memory_order_relaxed);
  s.evicted_neighbours = evicted_neighbours_.load(std::memory_order_relaxed);
  s.uses = ranking_->Stats();
  s.evicted_bytes = evicted_bytes_.load(std::memory_order_relaxed);
  s.demoted = demoted_.load(std::memory_order_relaxed);
  s.demoted_bytes = demoted_bytes_.load(std::memory_order_relaxed);
  s.demotions_refused = demotions_refused_.load(std::memory_order_relaxed);
  const uint64_t since_ms = demoting_since_ms_.load();
  s.demoting_ms = since_ms == 0 ? 0 : now_ms() - std::min(now_ms(), since_ms);
  s.integrity_failures = integrity_failures_.load(std::memory_order_relaxed);
  s.largest_free_bytes = use.largest_free_bytes;
  s.claims = claims.stats();
  s.policy_bytes = ranking_->memory_bytes(use.records_ever_used);
  s.metadata_bytes =
      use.allocator_bytes + index_.metadata_bytes(use.records_ever_used) + s.policy_bytes;
  return s;
}

// --- Namespace: leases around the numbers above ---

Namespace::Namespace(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Namespace::~Namespace() = default;

const NamespaceSpec& Namespace::spec() const { return impl_->spec(); }
bool Namespace::closed() const { return impl_->closed(); }

absl::StatusOr<std::optional<WriteLease>> Namespace::Reserve(const PutSpec& spec) {
  ASSIGN_OR_RETURN(const std::optional<Room> room, impl_->Reserve(spec));
  if (!room.has_value()) return std::nullopt;
  PendingPut pending;
  if (spec.info != nullptr) {
    pending.ttl_ms = spec.info->ttl_ms;
    if (!spec.info->parent_key.empty()) {
      pending.parent = ChainHash({spec.info->parent_key, spec.id.fingerprint});
    }
  }
  return WriteLease(shared_from_this(), room->record, room->bytes, pending);
}

absl::StatusOr<CommitOutcome> Namespace::Commit(WriteLease lease, const UseContext& use) {
  const std::shared_ptr<Namespace> keep_alive = std::exchange(lease.namespace_, nullptr);
  // Read now: from the commit on, the record is anybody's.
  const shm::Record& record = impl_->index().record(lease.record_);
  const Hash128 hash = record.hash();
  const std::shared_ptr<Namespace> lower =
      impl_->space().state(lease.record_).overwrite ? impl_->lower() : nullptr;
  const std::string key(lower != nullptr ? impl_->index().key(record) : std::string_view());
  auto outcome = impl_->Commit(lease.record_, lease.pending_, use);
  if (outcome.ok()) impl_->claims.OnVisible(hash);
  // What it replaces may have moved down, where it would outlive its successor.
  if (outcome.ok() && lower != nullptr) lower->impl_->Erase(hash, key);
  return outcome;
}

std::optional<ReadLease> Namespace::Lookup(const ObjectId& id, bool touch, const UseContext& use) {
  const uint32_t record = impl_->Lookup(id, touch, use);
  if (record == 0) return std::nullopt;
  ReadLease lease(shared_from_this(), record,
                  impl_->space().BytesOf(impl_->index().record(record)));
  if (!impl_->Verify(record)) return std::nullopt;
  return lease;
}

std::optional<uint64_t> Namespace::Probe(const ObjectId& id, bool touch, const UseContext& use) {
  return impl_->Probe(id, touch, use);
}
uint64_t Namespace::NewRequest() { return impl_->ranking().NewRequest(); }
Hash128 Namespace::ChainHash(const ObjectId& id) const { return impl_->ChainHash(id); }
absl::StatusOr<std::string> Namespace::SetPolicy(std::string_view name) {
  ASSIGN_OR_RETURN(std::string previous, impl_->ranking().SetPolicy(name, impl_->policy_ms()));
  for (const auto& tier : Tiers()) RETURN_IF_ERROR(tier->SetPolicy(name).status());
  return previous;
}
absl::Status Namespace::AdvanceClock(uint64_t since_start_ms) {
  if (!spec().virtual_clock) {
    return absl::FailedPreconditionError(
        absl::StrCat("namespace ", spec().name, " has no virtual clock"));
  }
  impl_->AdvanceClock(since_start_ms);
  for (const auto& tier : Tiers()) RETURN_IF_ERROR(tier->AdvanceClock(since_start_ms));
  return absl::OkStatus();
}
std::string Namespace::policy() const { return impl_->ranking().policy(); }
bool Namespace::Erase(const ObjectId& id) {
  const Hash128 hash = impl_->HashOf(id);
  const bool here = impl_->Erase(hash, id.key);
  const std::shared_ptr<Namespace> lower = impl_->lower();
  return (lower != nullptr && lower->impl_->Erase(hash, id.key)) || here;
}
uint64_t Namespace::Flush(std::string_view key_prefix) {
  impl_->FlushBegins();
  uint64_t erased = 0;
  for (const auto& tier : Tiers()) erased += tier->Flush(key_prefix);
  return erased + impl_->Flush(key_prefix);
}
ListPage Namespace::List(const Hash128& fingerprint, std::string_view key_prefix,
                         std::string_view after, size_t limit) const {
  return impl_->List(fingerprint, key_prefix, after, limit);
}
absl::StatusOr<Namespace::GetOrReserved> Namespace::GetOrReserve(const ObjectId& id,
                                                                 const ClaimParty& party,
                                                                 const Claims::Request& request) {
  using State = GetOrReserved::State;
  if (impl_->Probe(id, /*touch=*/true, {})) return GetOrReserved{State::kHit};
  const Hash128 hash = impl_->HashOf(id);
  ASSIGN_OR_RETURN(const Claims::Joined joined, impl_->claims.Join(party, hash, request));
  // The second look, without which a commit since the first could go unnoticed; see claims.h.
  const bool visible = impl_->Probe(id, /*touch=*/false, {}).has_value();
  switch (joined.state) {
    case Claims::Joined::State::kNobody:
      return GetOrReserved{visible ? State::kHit : State::kMiss};
    case Claims::Joined::State::kWon:
      if (!visible) return GetOrReserved{State::kWin, joined.ticket};
      // Others may wait for this claim already.
      impl_->claims.OnVisible(hash);
      return GetOrReserved{State::kHit};
    case Claims::Joined::State::kWaiting:
      // Its event comes as any, perhaps before this answer.
      if (visible) impl_->claims.OnVisible(hash);
      return GetOrReserved{State::kWait, joined.ticket};
  }
  return GetOrReserved{};
}

Claims& Namespace::claims() { return impl_->claims; }

bool Namespace::BindClaim(const ClaimParty& party, uint64_t ticket, const ObjectId& id) {
  return impl_->claims.BindToReservation(party, ticket, impl_->HashOf(id));
}

bool Namespace::Maintain() {
  impl_->claims.Expire();
  bool more = impl_->Maintain();
  for (const auto& tier : Tiers()) more |= tier->Maintain();
  return more;
}

void Namespace::Close() {
  impl_->Close();
  for (const auto& tier : Tiers()) tier->Close();
}
NamespaceStats Namespace::Stats() const { return impl_->Stats(); }
void Namespace::AttachPage(std::shared_ptr<ClientPage> page) { impl_->AttachPage(std::move(page)); }
void Namespace::DetachPage(const std::shared_ptr<ClientPage>& page) { impl_->DetachPage(*page); }
size_t Namespace::DrainTouches(ClientPage& page, size_t limit) {
  return impl_->DrainTouches(page, limit);
}
Namespace::PinUse Namespace::PinsOf(const ClientPage& page) const { return impl_->PinsOf(page); }
absl::StatusOr<UniqueFd> Namespace::OpenChunk(uint32_t chunk, bool writable) const {
  return impl_->space().chunks().Open(chunk, writable);
}
PageKind Namespace::page_kind() const { return impl_->page_kind(); }
int Namespace::index_fd() const { return impl_->index_fd(); }
std::span<std::byte> Namespace::index_memory() const { return impl_->index_memory(); }
std::vector<std::span<std::byte>> Namespace::arena_chunks() const {
  std::vector<std::span<std::byte>> chunks;
  for (uint32_t i = 0; i < chunk_count(); ++i) chunks.push_back(impl_->space().chunks().bytes(i));
  return chunks;
}
uint32_t Namespace::chunk_count() const {
  return static_cast<uint32_t>(impl_->space().geometry().chunk_count);
}
uint64_t Namespace::chunk_bytes() const { return impl_->space().geometry().chunk_bytes; }
void Namespace::Abort(uint32_t record) { impl_->Abort(record); }
void Namespace::Unpin(uint32_t record) { impl_->Unpin(record); }

}  // namespace infercache::store
