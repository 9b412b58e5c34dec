#include "server/store/namespace.h"

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/store/namespace_impl.h"

namespace infercache::store {

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
  const uint64_t now_ms = environment.clock.NowMs();
  options.expiry_epoch_ms =
      environment.expiry_epoch_ms.value_or(now_ms - std::min(now_ms, shm::kExpiryTickMs));
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
      full_reserve_bytes_(space_->total_bytes() / 100) {
  for (uint32_t i = 0; i < environment_.shards; ++i) {
    shards_.push_back(std::make_unique<Shard>());
  }
}

Namespace::Impl::~Impl() = default;

void Namespace::Impl::Close() {
  closed_.store(true, std::memory_order_release);
  Flush("");  // takes every shard's lock after the store: what commits later sees it
  claims.Close(absl::UnavailableError(absl::StrCat("namespace ", spec_.name, " is deleted")));
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
  // Parts of `evicted`, and so before it: no sum of parts may be more than the whole.
  s.evicted_neighbours = evicted_neighbours_.load(std::memory_order_acquire);
  s.demoted = demoted_.load(std::memory_order_acquire);
  s.stored = stored_.load(std::memory_order_relaxed);
  s.refused = refused_.load(std::memory_order_relaxed);
  s.erased = erased_.load(std::memory_order_relaxed);
  s.expired = expired_.load(std::memory_order_relaxed);
  s.evicted = evicted_.load(std::memory_order_relaxed);
  s.uses = ranking_->Stats();
  s.evicted_bytes = evicted_bytes_.load(std::memory_order_relaxed);
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
  PendingPut pending{.overwrite = spec.overwrite};
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
  const bool overwrites = lease.pending_.overwrite;
  const std::shared_ptr<Namespace> lower = impl_->lower();
  const std::string key(lower != nullptr && overwrites ? impl_->index().key(record) : "");
  auto outcome = impl_->Commit(lease.record_, lease.pending_, use);
  if (outcome.ok()) impl_->claims.OnVisible(hash);
  if (lower != nullptr && outcome.ok() && *outcome == CommitOutcome::kStored) {
    // What it replaces may have moved down, or be on its way, and would outlive its successor.
    impl_->departures.CallBack(hash);
    if (overwrites) lower->impl_->Erase(hash, key);
  }
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
  MutexLock change(&set_policy_mu_);
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
  if (lower == nullptr) return here;
  const bool on_its_way = impl_->departures.CallBack(hash);
  const bool below = lower->impl_->Erase(hash, id.key);
  return here || on_its_way || below;
}
uint64_t Namespace::Flush(std::string_view key_prefix) {
  impl_->FlushBegins();
  uint64_t erased = 0;
  for (const auto& tier : Tiers()) erased += tier->Flush(key_prefix);
  erased += impl_->Flush(key_prefix);
  impl_->FlushIsOver();
  return erased;
}
ListPage Namespace::List(const Hash128& fingerprint, std::string_view key_prefix,
                         std::string_view after, size_t limit, uint64_t max_bytes) const {
  return impl_->List(fingerprint, key_prefix, after, limit, max_bytes);
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
