// The inside of a namespace. Its methods are spread over seven files by what they are about:
// namespace.cc (making, closing, Stats), put.cc, lookup.cc (all that begins with a key), reclaim.cc
// (eviction, expiry, limbo), demotion.cc (moving down), clients.cc (the pages of the same-host
// lane), listing.cc (List, Flush).
//
// The order of its locks, and what must not happen under them, is the table "Locks" of
// ARCHITECTURE.md.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/store/departures.h"
#include "server/store/events.h"
#include "server/store/index_segment.h"
#include "server/store/limbo.h"
#include "server/store/namespace.h"
#include "server/store/ranking.h"
#include "server/store/space.h"

namespace infercache::store {

class Namespace::Impl {
 public:
  struct Environment {
    const Clock& clock;
    Observer* observer;                      // may be null
    std::function<void()> wake_maintenance;  // may be empty; called from any thread
    uint32_t shards;
    uint64_t assumed_object_bytes;   // see StoreOptions
    ArenaGeometry arena;             // of spec.quota_bytes
    PageKind pages = PageKind::k4k;  // of the chunks
    // A tier has its namespace's, so that both know an object by the same hash, and its end by the
    // same tick.
    std::optional<uint64_t> hash_seed = std::nullopt;
    std::optional<uint64_t> expiry_epoch_ms = std::nullopt;
    // Of a tier whose objects move down: where to, and Store::AddDeviceTier's low_room.
    std::weak_ptr<Namespace> lower = {};
    std::function<bool()> low_room = {};
  };

  // `spec` has been checked and its defaults filled in; `chunks` are as the environment says.
  static absl::StatusOr<std::unique_ptr<Impl>> Create(NamespaceSpec spec, Environment environment,
                                                      std::unique_ptr<Chunks> chunks);
  ~Impl();

  // --- namespace.cc ---
  NamespaceStats Stats();
  void Close();

  // --- put.cc ---
  absl::StatusOr<std::optional<Room>> Reserve(const PutSpec& spec) {
    return Reserve(spec, HashOf(spec.id));
  }
  // `hash` is that of the object, whatever the spec's fingerprint.
  absl::StatusOr<std::optional<Room>> Reserve(const PutSpec& spec, const Hash128& hash);
  absl::StatusOr<CommitOutcome> Commit(uint32_t record, const PendingPut& pending,
                                       const UseContext& use);
  void Abort(uint32_t record);
  void Quarantine(uint32_t record) { space_->Quarantine(record); }

  // --- lookup.cc ---
  // The pinned record, 0 for a miss.
  uint32_t Lookup(const ObjectId& id, bool touch, const UseContext& use);
  void Unpin(uint32_t record);
  // Whether a pinned record still holds the bytes that were committed. If so it counts the hit; if
  // not, a miss, and the object is erased.
  bool Verify(uint32_t record);
  std::optional<uint64_t> Probe(const ObjectId& id, bool touch, const UseContext& use);
  bool Erase(const Hash128& hash, std::string_view key);

  // --- reclaim.cc ---
  bool Maintain();

  // --- demotion.cc ---
  // Room that is to be free before puts take it, in multiples of the full reserve, and what of that
  // upkeep still evicts for where somebody sees to it.
  static constexpr uint64_t kDemotionReserves = 2;
  static constexpr uint64_t kReserveBesideDemotion = 4;
  uint64_t BytesToDemote() const;
  std::shared_ptr<Namespace> lower() const { return environment_.lower.lock(); }
  // The objects that would go next.
  std::vector<uint32_t> PinColdest(uint64_t bytes, size_t limit) ABSL_LOCKS_EXCLUDED(evict_mu_);
  // Of these, each pinned once by the caller, those that are still what they were and that nobody
  // else holds. True for each that went.
  std::vector<bool> EvictCopied(std::span<const uint32_t> records) ABSL_LOCKS_EXCLUDED(evict_mu_);
  // Of a namespace whose tiers' objects move down here. As many as were over at one time had begun
  // at a later one: there was none between the two, and none under way.
  uint64_t flushes_begun() const { return flushes_begun_.load(); }
  uint64_t flushes_over() const { return flushes_over_.load(); }
  void FlushBegins() { flushes_begun_.fetch_add(1); }
  void FlushIsOver() { flushes_over_.fetch_add(1); }
  void DemotionBegins() { demoting_since_ms_.store(std::max(now_ms(), uint64_t{1})); }
  void DemotionEnds() { demoting_since_ms_.store(0); }
  void CountRefusedDemotion() { demotions_refused_.fetch_add(1, std::memory_order_relaxed); }

  // --- clients.cc ---
  void AttachPage(std::shared_ptr<ClientPage> page) { limbo_.Attach(std::move(page)); }
  void DetachPage(ClientPage& page);
  size_t DrainTouches(ClientPage& page, size_t limit);
  PinUse PinsOf(const ClientPage& page) const;
  PageKind page_kind() const { return environment_.pages; }
  int index_fd() const { return index_.fd(); }

  // --- listing.cc ---
  uint64_t Flush(std::string_view key_prefix);
  ListPage List(const Hash128& fingerprint, std::string_view key_prefix, std::string_view after,
                size_t limit, uint64_t max_bytes) const;

  const NamespaceSpec& spec() const { return spec_; }
  const shm::IndexView& index() const { return index_.view(); }
  std::span<std::byte> index_memory() const { return index_.memory(); }
  const Space& space() const { return *space_; }
  Ranking& ranking() { return *ranking_; }
  Hash128 ChainHash(const ObjectId& id) const { return index_.HashOf(id.fingerprint, id.key); }
  uint64_t now_ms() const { return environment_.clock.NowMs(); }
  // For what the policy gets to know: the same, unless the namespace's clock is virtual.
  uint64_t policy_ms() const {
    return spec_.virtual_clock ? virtual_ms_.load(std::memory_order_relaxed) : now_ms();
  }
  void AdvanceClock(uint64_t since_start_ms);
  bool closed() const { return closed_.load(std::memory_order_acquire); }
  ObjectInfo InfoOf(const shm::Record& record) const;

  Hash128 HashOf(const ObjectId& id) const { return index_.HashOf(id.fingerprint, id.key); }

  // Have their own locks, which are taken with none of those above held.
  Claims claims;
  Departures departures;

  // Given back when the last lease on a deleted namespace is gone.
  std::shared_ptr<void> quota_claim;

 private:
  struct alignas(64) Shard {
    Mutex mu;
    uint64_t hits ABSL_GUARDED_BY(mu) = 0;
    uint64_t misses ABSL_GUARDED_BY(mu) = 0;
    uint64_t hit_bytes ABSL_GUARDED_BY(mu) = 0;
    uint64_t exists ABSL_GUARDED_BY(mu) = 0;
    double saved_compute_ms ABSL_GUARDED_BY(mu) = 0;
  };

  // Collects what a change made invisible, so that the rest happens after the locks are released.
  struct Removed {
    absl::InlinedVector<uint32_t, 2> retired;
    absl::InlinedVector<Event, 2> events;
  };

  Impl(NamespaceSpec spec, Environment environment, std::unique_ptr<IndexSegment> index,
       std::unique_ptr<Space> space, std::unique_ptr<Ranking> ranking);

  Shard& ShardOf(const Hash128& hash) { return *shards_[index_.shard_of(hash)]; }

  // --- put.cc ---
  void Fill(const PutSpec& spec, const Room& room, const Hash128& hash, std::string_view table);
  // For an object that becomes visible now.
  uint32_t ExpiryTick(uint64_t ttl_ms) const;
  // The object of this hash, if it is visible, to put another one behind it.
  Ranking::Anchor FindAnchor(const Hash128& hash);
  // Links a record that has become visible; retires the coldest of its chain if that is full.
  // False if all of them are pinned.
  bool Link(Shard& shard, const Hash128& hash, uint32_t record, Removed* removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);
  // Enters a record that has just been linked in the books, the ranking and the events.
  void Publish(Shard& shard, uint32_t record, const UseContext& use, const Ranking::Anchor& anchor,
               bool replaces, Removed* removed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);

  // --- lookup.cc ---
  // The visible, unexpired record; an expired one is retired on the way. 0 if none.
  uint32_t FindLive(Shard& shard, const Hash128& hash, std::string_view key, Removed* removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);
  void CountHit(Shard& shard, const shm::Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);
  void Touch(Shard& shard, uint32_t record, const UseContext& use)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);

  // --- reclaim.cc ---
  // Unlinks a visible record and makes its generation odd.
  void Retire(Shard& shard, uint32_t record, EventKind why, Removed* removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);
  // The same for a record whose bucket entry already points at its successor.
  void RetireUnlinked(Shard& shard, uint32_t record, EventKind why, Removed* removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);
  Event MakeEvent(EventKind kind, uint32_t record);
  // Into limbo with what was retired, out with the events, and free what can be freed already.
  void Finish(const Removed& removed) ABSL_LOCKS_EXCLUDED(evict_mu_);
  // max(4 blocks, 1 %), but never so much that a small namespace would hold nothing.
  static uint64_t FullReserve(const SpaceUse& use);
  // What upkeep keeps free of it.
  uint64_t FreeReserve(uint64_t full_reserve) const {
    const bool less = others_make_room_.load(std::memory_order_relaxed);
    return less ? full_reserve / kReserveBesideDemotion : full_reserve;
  }
  // Tells those who move objects down, if there are any, and remembers whether they are at work.
  void TellOfLowRoom(uint64_t free_bytes, uint64_t full_reserve);
  std::optional<Room> MakeRoom(uint64_t size, uint64_t meta_size) ABSL_LOCKS_EXCLUDED(evict_mu_);
  size_t MostVictims(uint64_t size) const;
  // The slow way: one victim, or one hole, after the other. Adds what there is to announce.
  std::optional<Room> EvictAndAllocate(uint64_t size, uint64_t meta_size,
                                       std::vector<Event>* events) ABSL_LOCKS_EXCLUDED(evict_mu_);
  bool PinnedHere(uint32_t record) const;
  // Applies what clients have touched, at most `limit` touches in all.
  void DrainAllTouches(size_t limit);
  // Tells the ranking; *request is that of the touches so far, 0 = there were none.
  void TakeTouch(uint64_t touch, bool begins_request, uint64_t now_ms, uint64_t* request);
  // Adds what the pages counted to client_counters_, and returns the totals.
  ClientCounters TakeCounters() ABSL_LOCKS_EXCLUDED(client_counters_mu_);
  void AddCounters(const ClientCounters& counters) ABSL_LOCKS_EXCLUDED(client_counters_mu_);
  void ToLimbo(const Removed& removed);
  void Announce(std::span<const Event> events);
  // Frees what nobody names any more.
  void Reap();
  // The object that is worth least of those that nobody has pinned.
  std::optional<Incarnation> PickVictim(const PinnedSet& pinned)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(evict_mu_);
  // Retires the victim and, if its hole is too small for `size`, neighbours, at most `limit` in
  // all. Returns how many went; 0 = there is no victim.
  size_t EvictFor(uint64_t size, size_t limit, const PinnedSet& pinned, Removed* removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(evict_mu_);
  // Retires an object that is itself large enough, wherever it stands in the ranking: what is worth
  // least may be small, and lie where no hole can be. Returns how many went.
  size_t EvictAsLarge(uint64_t size, const PinnedSet& pinned, Removed* removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(evict_mu_);
  // Retires the coldest objects until `bytes` of room are on their way back. Returns how many went.
  size_t EvictBytes(uint64_t bytes, size_t limit, const PinnedSet& pinned, Removed* removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(evict_mu_);
  // Pins `victim` unless it changed meanwhile; retires it if its time is over.
  bool PinOrExpire(const Incarnation& victim, Removed* removed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(evict_mu_);
  // Retires `victim` unless it changed or was pinned meanwhile.
  bool Evict(const Incarnation& victim, const PinnedSet& pinned, Removed* removed);
  // True if it did all it may do at once and there is more to do.
  bool EvictToReserve();
  void SweepExpired();

  // Calls f(shard, first, end) for `count` buckets from `first_bucket` on, around the end of the
  // index, in runs that lie in one shard and are short enough to be worked on under its lock.
  template <class F>
  void ForEachRun(uint32_t first_bucket, uint32_t count, F f) const {
    constexpr uint32_t kBucketsPerLock = 64;
    const uint32_t per_shard = index_.buckets_per_shard();
    for (uint32_t done = 0, bucket = first_bucket; done < count;) {
      const uint32_t shard = bucket / per_shard;
      const uint32_t end =
          std::min({bucket + kBucketsPerLock, (shard + 1) * per_shard, bucket + (count - done)});
      f(*shards_[shard], bucket, end);
      done += end - bucket;
      bucket = end == index_.bucket_count() ? 0 : end;
    }
  }

  // Constant after construction.
  const NamespaceSpec spec_;
  const Environment environment_;
  const std::unique_ptr<IndexSegment> index_storage_;
  IndexSegment& index_;
  const std::unique_ptr<Space> space_;
  const std::unique_ptr<Ranking> ranking_;  // has its own synchronization
  std::vector<std::unique_ptr<Shard>> shards_;

  // Have their own synchronization.
  Limbo limbo_;
  std::atomic<bool> closed_{false};
  const uint64_t started_ms_;
  std::atomic<uint64_t> virtual_ms_;
  std::atomic<uint64_t> next_event_{1};
  std::atomic<uint64_t> expiring_objects_{0};  // visible ones with a TTL
  std::atomic<uint64_t> daemon_pins_{0};
  std::atomic<uint64_t> limbo_bytes_held_{0};  // in limbo after the last Reap
  std::atomic<uint32_t> puts_making_room_{0};
  std::atomic<uint64_t> full_reserve_bytes_;   // as of the last Maintain
  std::atomic<bool> others_make_room_{false};  // by moving objects down
  std::atomic<uint64_t> stored_{0}, refused_{0};
  std::atomic<uint64_t> erased_{0}, expired_{0};
  std::atomic<uint64_t> evicted_{0}, evicted_neighbours_{0}, evicted_bytes_{0};
  std::atomic<uint64_t> demoted_{0}, demoted_bytes_{0}, demotions_refused_{0};
  std::atomic<uint64_t> flushes_begun_{0}, flushes_over_{0};
  std::atomic<uint64_t> demoting_since_ms_{0};  // 0 = nothing is on its way
  std::atomic<uint64_t> integrity_failures_{0};

  std::atomic<uint32_t> next_drained_{0};  // whose touches come first

  Mutex client_counters_mu_;
  ClientCounters client_counters_ ABSL_GUARDED_BY(client_counters_mu_);

  Mutex evict_mu_;

  Mutex sweep_mu_;  // taken with nothing held, before a shard's
  uint32_t sweep_bucket_ ABSL_GUARDED_BY(sweep_mu_) = 0;
};

}  // namespace infercache::store
