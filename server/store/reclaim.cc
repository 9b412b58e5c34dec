// How memory comes back: victims, the holes they leave, limbo, expiry, and the free reserve.

#include <algorithm>

#include "server/store/namespace_impl.h"

namespace infercache::store {
namespace {

// What one put may evict: no more than this of what is as large as itself; of smaller objects, as
// many as lie where it goes and some. Before it is refused, one more that is large enough.
constexpr size_t kMinVictimsPerPut = 64;
constexpr size_t kMaxVictimsPerPut = 16'384;
constexpr size_t kMaxHolesPerPut = 64;
constexpr size_t kVictimsPerLock = 64;  // of upkeep, before puts have their turn
// What one scan of the clients' pins is done for: a victim costs about as much as so many pins.
constexpr size_t kPinsPerVictim = 256;
constexpr int kLocksPerUpkeep = 16;
// What clients have used is taken in before a victim is chosen: as much of it as a put can wait
// for, and much more in the background.
constexpr size_t kTouchesPerPut = 1024;
constexpr size_t kTouchesPerUpkeep = 65'536;
constexpr uint32_t kMinBucketsPerSweep = 4096;
constexpr uint32_t kSweepsPerRound = 100;  // ten seconds of upkeep visit the whole index

size_t VictimsPerScan(const PinnedSet& pinned) { return pinned.pins() / kPinsPerVictim; }

// Of visible objects, in bytes; 0 = there are none.
uint64_t AverageBlock(const SpaceUse& use) {
  return use.visible == 0 ? 0 : use.visible_bytes / use.visible;
}

}  // namespace

uint64_t Namespace::Impl::FullReserve(const SpaceUse& use) {
  // Of objects so large that the reserve would hold none of them, it is good for nothing.
  if (AverageBlock(use) > use.total_bytes / 8) return 0;
  return std::min(std::max(4 * AverageBlock(use), use.total_bytes / 100), use.total_bytes / 8);
}

void Namespace::Impl::TellOfLowRoom(uint64_t free_bytes, uint64_t full_reserve) {
  if (!environment_.low_room || free_bytes >= kDemotionReserves * full_reserve) return;
  others_make_room_.store(environment_.low_room(), std::memory_order_relaxed);
}

std::optional<Room> Namespace::Impl::MakeRoom(uint64_t size, uint64_t meta_size) {
  std::optional<Room> room;
  Shortage shortage;
  // While a put is making room, others queue behind it instead of taking the hole that it made.
  if (puts_making_room_.load(std::memory_order_relaxed) == 0) {
    room = space_->Allocate(size, meta_size, &shortage);
  }
  if (!room.has_value()) {
    std::vector<Event> events;
    puts_making_room_.fetch_add(1, std::memory_order_relaxed);
    room = EvictAndAllocate(size, meta_size, &events);
    puts_making_room_.fetch_sub(1, std::memory_order_relaxed);
    Announce(events);
  }
  const uint64_t left = room.has_value() ? room->free_bytes_left : 0;
  const uint64_t full_reserve = full_reserve_bytes_.load(std::memory_order_relaxed);
  TellOfLowRoom(left, full_reserve);
  if (environment_.wake_maintenance && left < FreeReserve(full_reserve) / 2) {
    environment_.wake_maintenance();
  }
  return room;
}

size_t Namespace::Impl::MostVictims(uint64_t size) const {
  const uint64_t block = std::max<uint64_t>(AverageBlock(space_->Use()), 1);
  return std::clamp<size_t>(2 * size / block, kMinVictimsPerPut, kMaxVictimsPerPut);
}

std::optional<Room> Namespace::Impl::EvictAndAllocate(uint64_t size, uint64_t meta_size,
                                                      std::vector<Event>* events) {
  DrainAllTouches(kTouchesPerPut);
  MutexLock lock(&evict_mu_);
  const size_t most = MostVictims(size);
  std::optional<PinnedSet> pinned;
  bool last_try = false;
  for (size_t victims = 0, holes = 0;; ++holes) {
    Reap();
    Shortage shortage;
    std::optional<Room> room = space_->Allocate(size, meta_size, &shortage);
    // Any victim gives back a record; only bytes need a hole.
    const uint64_t hole = shortage == Shortage::kBytes ? size : 0;
    const bool enough = victims >= most || holes >= kMaxHolesPerPut;
    if (room.has_value() || last_try || (enough && hole == 0)) return room;
    if (!pinned.has_value()) pinned = limbo_.Scan();
    last_try = enough;
    Removed removed;
    const size_t gone = enough ? EvictAsLarge(size, *pinned, &removed)
                               : EvictFor(hole, most - victims, *pinned, &removed);
    if (gone == 0) return std::nullopt;
    victims += gone;
    if (limbo_.has_pages() && victims < most) {
      // The scan that follows costs the same for many: go on as the next upkeep would.
      const size_t more = std::max(most - victims, VictimsPerScan(*pinned));
      const uint64_t reserve = FreeReserve(full_reserve_bytes_.load(std::memory_order_relaxed));
      victims += EvictBytes(reserve, more, *pinned, &removed);
    }
    ToLimbo(removed);
    events->insert(events->end(), removed.events.begin(), removed.events.end());
  }
}

std::optional<Incarnation> Namespace::Impl::PickVictim(const PinnedSet& pinned) {
  return ranking_->Victim(policy_ms(), [&](uint32_t record) {
    return space_->state(record).pins.load(std::memory_order_relaxed) == 0 &&
           !pinned.Contains(record);
  });
}

size_t Namespace::Impl::EvictFor(uint64_t size, size_t limit, const PinnedSet& pinned,
                                 Removed* removed) {
  while (true) {
    const std::optional<Incarnation> victim = PickVictim(pinned);
    if (!victim.has_value()) return 0;
    const auto hole = space_->PlanHole(victim->record, size, limit - 1, pinned);
    if (!Evict(*victim, pinned, removed)) continue;  // used or gone meanwhile: another one
    size_t count = 1;
    if (hole.has_value()) {
      for (const Incarnation& neighbour : *hole) count += Evict(neighbour, pinned, removed) ? 1 : 0;
      evicted_neighbours_.fetch_add(count - 1, std::memory_order_release);
    }
    return count;
  }
}

size_t Namespace::Impl::EvictAsLarge(uint64_t size, const PinnedSet& pinned, Removed* removed) {
  const std::optional<Incarnation> victim = space_->FindAsLarge(size, pinned);
  return victim.has_value() && Evict(*victim, pinned, removed) ? 1 : 0;
}

size_t Namespace::Impl::EvictBytes(uint64_t bytes, size_t limit, const PinnedSet& pinned,
                                   Removed* removed) {
  size_t gone = 0;
  for (uint64_t freed = 0; freed < bytes && gone < limit;) {
    const std::optional<Incarnation> victim = PickVictim(pinned);
    if (!victim.has_value()) break;
    if (!Evict(*victim, pinned, removed)) continue;
    freed += space_->RoundUp(removed->events.back().size_bytes);
    ++gone;
  }
  return gone;
}

bool Namespace::Impl::Evict(const Incarnation& victim, const PinnedSet& pinned, Removed* removed) {
  const RecordState& state = space_->state(victim.record);
  Shard& shard = *shards_[state.shard.load(std::memory_order_relaxed)];
  MutexLock lock(&shard.mu);
  // If the generation has not moved, the record is still visible, and in this shard: only under its
  // lock could it have left.
  if (index().record(victim.record).generation.load(std::memory_order_acquire) !=
          victim.generation ||
      state.pins.load(std::memory_order_relaxed) != 0 || pinned.Contains(victim.record)) {
    return false;
  }
  Retire(shard, victim.record, EventKind::kEvicted, removed);
  return true;
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

bool Namespace::Impl::PinnedHere(uint32_t record) const {
  return space_->state(record).pins.load(std::memory_order_seq_cst) != 0;
}

void Namespace::Impl::ToLimbo(const Removed& removed) {
  if (removed.retired.empty()) return;
  space_->MoveToLimbo(removed.retired);
  const std::vector<uint32_t> free =
      limbo_.Add(removed.retired, now_ms(), [this](uint32_t r) { return PinnedHere(r); });
  if (!free.empty()) space_->FreeLimbo(free);
}

void Namespace::Impl::Announce(std::span<const Event> events) {
  if (environment_.observer == nullptr) return;
  for (const Event& event : events) environment_.observer->OnEvent(event);
}

void Namespace::Impl::Finish(const Removed& removed) {
  ToLimbo(removed);
  if (!removed.retired.empty() && limbo_.has_pages()) {
    // Reading clients' pages is worth it only for a batch of what they did not hold the last time:
    // upkeep or a put that needs room does it.
    const SpaceUse use = space_->Use();
    constexpr uint64_t kWorthAScan = uint64_t{1} << 20;
    const uint64_t held = limbo_bytes_held_.load(std::memory_order_relaxed);
    if (use.limbo_bytes > held + std::max(kWorthAScan, use.total_bytes / 64)) Reap();
  }
  Announce(removed.events);
}

void Namespace::Impl::Reap() {
  const std::vector<uint32_t> free =
      limbo_.Collect([this](uint32_t record) { return PinnedHere(record); });
  if (!free.empty()) space_->FreeLimbo(free);
  limbo_bytes_held_.store(space_->Use().limbo_bytes, std::memory_order_relaxed);
}

bool Namespace::Impl::Maintain() {
  Reap();
  SweepExpired();
  const SpaceUse use = space_->Use();
  const uint64_t full_reserve = FullReserve(use);
  TellOfLowRoom(use.free_bytes, full_reserve);
  if (use.free_bytes < FreeReserve(full_reserve)) DrainAllTouches(kTouchesPerUpkeep);
  for (int i = 0; i < kLocksPerUpkeep; ++i) {
    if (!EvictToReserve()) return false;
  }
  return true;
}

bool Namespace::Impl::EvictToReserve() {
  const SpaceUse use = space_->Use();
  const uint64_t full_reserve = FullReserve(use);
  full_reserve_bytes_.store(full_reserve, std::memory_order_relaxed);
  const uint64_t reserve = FreeReserve(full_reserve);
  if (use.free_bytes >= reserve) return false;
  Removed removed;
  bool more = false;  // else the reserve is there, or nothing may go
  {
    MutexLock lock(&evict_mu_);
    const PinnedSet pinned = limbo_.Scan();
    const size_t most = std::max(kVictimsPerLock, VictimsPerScan(pinned));
    more = EvictBytes(reserve - use.free_bytes, most, pinned, &removed) == most;
    ToLimbo(removed);
    Reap();
  }
  Announce(removed.events);
  return more;
}

void Namespace::Impl::SweepExpired() {
  if (expiring_objects_.load(std::memory_order_relaxed) == 0) return;
  Removed removed;
  {
    MutexLock sweep_lock(&sweep_mu_);
    const uint32_t count =
        std::min(std::max(kMinBucketsPerSweep, index_.bucket_count() / kSweepsPerRound),
                 index_.bucket_count());
    const uint64_t now = now_ms();
    ForEachRun(sweep_bucket_, count, [&](Shard& shard, uint32_t first, uint32_t end) {
      std::vector<uint32_t> expired;
      MutexLock lock(&shard.mu);
      for (uint32_t bucket = first; bucket < end; ++bucket) {
        index_.ForEachInChain(bucket, [&](uint32_t record) {
          if (index().expired(index().record(record), now)) expired.push_back(record);
        });
      }
      for (const uint32_t record : expired) Retire(shard, record, EventKind::kExpired, &removed);
    });
    sweep_bucket_ = (sweep_bucket_ + count) % index_.bucket_count();
  }
  Finish(removed);
}

}  // namespace infercache::store
