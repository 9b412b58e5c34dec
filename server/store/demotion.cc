// Objects that move from a tier in a GPU down to host memory. Who copies bytes is not the store's
// business: an object is picked and pinned, room for it is reserved below, somebody copies, and
// then it changes its place.
//
// An object is first retired here and then committed below, so that for a moment it is a miss, and
// never the other way round: nothing that was erased or replaced here meanwhile may come up again
// from below. What is left is who erases or replaces it between the two, and finds it neither here
// nor there. He calls it back (departures.h) after he has looked here, and only then erases what is
// below; who moves it down asks, after he has committed it there, whether somebody has called it
// back, and then erases it. One of the two comes second and sees the other's. A flush is like an
// erasure of everything: it counts itself before it begins and when it is over, and what was on its
// way at any time between the two is erased below.
//
// It keeps the time at which it ends, however long it was on its way.
//
// Nobody waits for a demotion: puts that find too little room evict, as if there were none.

#include <algorithm>
#include <utility>

#include "server/store/namespace_impl.h"

namespace infercache::store {
namespace {

// As much as upkeep takes in before it evicts.
constexpr size_t kTouchesPerDemotion = 65'536;

}  // namespace

uint64_t Namespace::Impl::BytesToDemote() const {
  const SpaceUse use = space_->Use();
  const uint64_t wanted = kDemotionReserves * FullReserve(use);
  return wanted - std::min(wanted, use.free_bytes);
}

std::vector<uint32_t> Namespace::Impl::PinColdest(uint64_t bytes, size_t limit) {
  DrainAllTouches(kTouchesPerDemotion);
  std::vector<uint32_t> pinned;
  Removed removed;
  {
    MutexLock lock(&evict_mu_);
    const PinnedSet named = limbo_.Scan();
    for (uint64_t found = 0; found < bytes && pinned.size() < limit;) {
      const std::optional<Incarnation> victim = PickVictim(named);
      if (!victim.has_value()) break;
      if (!PinOrExpire(*victim, &removed)) continue;
      pinned.push_back(victim->record);
      found += space_->RoundUp(index().record(victim->record).size());
    }
    ToLimbo(removed);
  }
  Announce(removed.events);
  return pinned;
}

bool Namespace::Impl::PinOrExpire(const Incarnation& victim, Removed* removed) {
  const shm::Record& record = index().record(victim.record);
  RecordState& state = space_->state(victim.record);
  Shard& shard = *shards_[state.shard.load(std::memory_order_relaxed)];
  MutexLock lock(&shard.mu);
  // As in Evict: if the generation has not moved, this is its shard.
  if (record.generation.load(std::memory_order_acquire) != victim.generation) return false;
  if (index().expired(record, now_ms())) {
    Retire(shard, victim.record, EventKind::kExpired, removed);
    return false;
  }
  state.pins.fetch_add(1, std::memory_order_relaxed);
  daemon_pins_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

std::vector<bool> Namespace::Impl::EvictCopied(std::span<const uint32_t> records) {
  std::vector<bool> went;
  Removed removed;
  const PinnedSet named = limbo_.Scan();
  for (const uint32_t number : records) {
    const RecordState& state = space_->state(number);
    Shard& shard = *shards_[state.shard.load(std::memory_order_relaxed)];
    MutexLock lock(&shard.mu);
    const bool may_go = state.phase.load(std::memory_order_relaxed) == Phase::kVisible &&
                        state.pins.load(std::memory_order_relaxed) == 1 && !named.Contains(number);
    went.push_back(may_go);
    if (!may_go) continue;
    Retire(shard, number, EventKind::kEvicted, &removed);
    // After it was counted as evicted, of which these are a part; Stats reads in the other order.
    demoted_.fetch_add(1, std::memory_order_release);
    demoted_bytes_.fetch_add(index().record(number).size(), std::memory_order_relaxed);
  }
  Finish(removed);
  return went;
}

uint64_t Namespace::BytesToDemote() const { return impl_->BytesToDemote(); }

std::vector<Namespace::Demotion> Namespace::BeginDemotion(uint64_t bytes, size_t limit) {
  std::vector<Demotion> demotions;
  const std::shared_ptr<Namespace> lower = impl_->lower();
  if (lower == nullptr) return demotions;
  impl_->DemotionBegins();
  const uint64_t flushes = lower->impl_->flushes_over();
  for (const uint32_t record : impl_->PinColdest(bytes, limit)) {
    ReadLease from(shared_from_this(), record, {});
    const ObjectInfo info = from.info();
    const std::vector<PartSpec> parts = from.parts();
    const PutSpec spec = {
        .id = {from.key(), {}}, .size_bytes = from.size_bytes(), .parts = parts, .info = &info};
    const auto room = lower->impl_->Reserve(spec, impl_->index().record(record).hash());
    if (!room.ok()) {
      impl_->CountRefusedDemotion();
      continue;
    }
    Demotion& demotion = demotions.emplace_back(Demotion{std::move(from), std::nullopt, flushes});
    if (!room->has_value()) continue;
    const PendingPut pending = {.expiry_tick = impl_->index().record(record).expiry_tick};
    demotion.to = WriteLease(lower, (*room)->record, (*room)->bytes, pending);
  }
  if (demotions.empty()) impl_->DemotionEnds();
  return demotions;
}

size_t Namespace::FinishDemotion(std::vector<Demotion> demotions) {
  impl_->DemotionEnds();
  const std::shared_ptr<Namespace> lower = impl_->lower();
  if (lower == nullptr) return 0;
  std::vector<uint32_t> records;
  for (const Demotion& demotion : demotions) {
    records.push_back(demotion.from.record_);
    impl_->departures.Leaves(impl_->index().record(records.back()).hash());
  }
  const std::vector<bool> went = impl_->EvictCopied(records);
  size_t moved = 0;
  for (size_t i = 0; i < demotions.size(); ++i) {
    const bool commits = went[i] && demotions[i].to.has_value();
    if (commits) (void)lower->Commit(*std::move(demotions[i].to));  // or another one was first
    const Hash128 hash = impl_->index().record(records[i]).hash();
    const bool called_back = impl_->departures.Arrived(hash);
    const bool flushed = lower->impl_->flushes_begun() != demotions[i].flushes;
    if (commits && (called_back || flushed)) lower->impl_->Erase(hash, demotions[i].from.key());
    moved += went[i] ? 1 : 0;
  }
  return moved;
}

}  // namespace infercache::store
