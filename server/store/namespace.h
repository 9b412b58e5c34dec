// One namespace: an index in shared memory, a host arena, and the rules that keep both within the
// quota. See ARCHITECTURE.md for the life of an object and docs/shared_memory.md for the layouts.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/memory_segment.h"
#include "common/mutex.h"
#include "common/unique_fd.h"
#include "infercache/types.h"
#include "server/store/aged_bytes.h"
#include "server/store/claims.h"
#include "server/store/client_page.h"
#include "server/store/events.h"
#include "server/store/lease.h"
#include "server/store/use_stats.h"

namespace infercache::store {

// Who may do something over the same-host lane. The store only keeps it.
struct LocalAccess {
  bool everyone = true;          // whoever can open the socket
  std::vector<uint32_t> users;   // else these uids
  std::vector<uint32_t> groups;  // and these gids
};

// Largest host arena chunk, and so the largest object.
inline constexpr uint64_t kDefaultChunkBytes = uint64_t{1} << 30;

inline constexpr std::string_view kDefaultPolicy = "auto";

struct NamespaceSpec {
  std::string name;          // 1..64 of [a-z0-9._-]
  uint64_t quota_bytes = 0;  // > 0; rounded up to whole pages a chunk
  uint64_t max_objects = 0;  // 0 = max(1024, quota / 4 KiB)
  std::string policy;        // which objects go first, see PolicyNames(); empty = kDefaultPolicy
  FingerprintEntries required_fingerprint;
  // Stores a CRC32C with each object. Whoever takes a hit checks it, the daemon or a client of the
  // same-host lane: a mismatch (a writer with a mapping of the arena, or bad memory) is a miss, and
  // the daemon erases the object. Costs a read of the bytes. Never of a tier.
  bool checksums = false;
  bool grpc_open = false;  // loopback peers need no credential; the store only keeps it
  LocalAccess local_users;
  LocalAccess local_writers;  // of those who are users
  // The policy's time does not go by itself, but as AdvanceClock says: for traces. Times of expiry
  // do not follow it.
  bool virtual_clock = false;
  // Writers of the same-host lane may have writable mappings of the arena. If not, the kernel
  // refuses them to everybody and the daemon copies what they send.
  bool writable_by_clients = true;
  // Of a tier, whose name is NAMESPACE@DEVICE: the UUID of its GPU. Empty = host memory.
  std::string device;
};

// The quota under which `objects` live objects of `object_bytes` each fit in chunks of
// `chunk_bytes`, with rounding and the free reserve on top. More than any limit
// if that overflows.
uint64_t QuotaForLiveObjects(uint64_t objects, uint64_t object_bytes,
                             uint64_t chunk_bytes = kDefaultChunkBytes);

struct ObjectId {
  std::string_view key;
  Hash128 fingerprint;  // Fingerprint::hash()
};

// A use as a part of its request: what the policies know of chains. A request's blocks are told
// from the last one to the first, so that the first, which most others share, counts as the latest.
// The blocks of a request that comes in pieces are one chain again if each piece says where it goes
// on.
struct UseContext {
  uint64_t request = 0;       // Namespace::NewRequest(), the same for all of a call; 0 = alone
  bool ends_request = false;  // the block is known to be its request's last
  // For a new object, ChainHash of the block after which this piece of the chain goes on: the
  // parent of the piece's first block, zero if it has none. Not set = the object's own parent.
  std::optional<Hash128> anchor = std::nullopt;
};

struct PutSpec {
  ObjectId id;
  uint64_t size_bytes = 0;
  std::span<const PartSpec> parts;   // empty = one part of plain bytes
  const ObjectInfo* info = nullptr;  // null = defaults
  bool overwrite = false;
  UseContext use = {};  // if it turns out to exist
};

enum class CommitOutcome { kStored, kExists };

class Namespace;

// A namespace's objects in the memory of one GPU: a namespace of their own beside the one in host
// memory, with the same policy, rights and required fingerprint, that only clients of the same-host
// lane reach. Its bytes are no memory of the daemon's: its leases have none.
struct DeviceTier {
  std::string device;                  // the GPU's UUID
  uint64_t bytes = 0;                  // as configured
  std::shared_ptr<Namespace> objects;  // null: off
  absl::Status why_off;
};

struct ListEntry {
  std::string key;
  uint64_t size_bytes = 0;
  ObjectInfo info;
  // For DecodePartTable, which may make a thousand times as much of it.
  std::string part_table;
};

struct ListPage {
  std::vector<ListEntry> entries;  // in byte order of the key
  bool more = false;
};

// Counters are totals since creation; gauges are a snapshot, each exact, together only nearly.
struct NamespaceStats {
  uint64_t quota_bytes = 0, used_bytes = 0, reserved_bytes = 0, visible_bytes = 0, limbo_bytes = 0;
  uint64_t objects = 0, max_objects = 0, reservations = 0, pins = 0;
  uint64_t hits = 0, misses = 0, hit_bytes = 0;  // by the daemon itself
  ClientCounters client;                         // by clients, in shared memory
  uint64_t client_pages = 0, client_pins = 0;
  uint64_t quarantined_bytes = 0;  // part of reserved_bytes: the writer's session is over
  AgedBytes limbo_age;
  uint64_t stored = 0, exists = 0, refused = 0, erased = 0, expired = 0;
  uint64_t evicted = 0, evicted_bytes = 0;
  // Part of evicted: not the worst, but in the way of a hole that was large enough.
  uint64_t evicted_neighbours = 0;
  // Part of evicted, of a tier: they are in host memory now.
  uint64_t demoted = 0, demoted_bytes = 0;
  uint64_t demotions_refused = 0;  // host memory had no room; counted at each attempt
  uint64_t demoting_ms = 0;        // how long what is on its way has been; grows if the GPU hangs
  UseStats uses;
  uint64_t integrity_failures = 0;
  uint64_t saved_compute_us = 0;
  uint64_t largest_free_bytes = 0, metadata_bytes = 0;
  ClaimStats claims;
  uint64_t policy_bytes = 0;  // part of metadata_bytes
};

class Namespace : public std::enable_shared_from_this<Namespace> {
 public:
  ~Namespace();
  Namespace(const Namespace&) = delete;
  Namespace& operator=(const Namespace&) = delete;

  const NamespaceSpec& spec() const;

  // Makes room and an invisible object. nullopt: the key is visible (it was touched) and overwrite
  // is not set. Errors: INVALID_ARGUMENT (names the field and the limit: key of 0 or more than 1024
  // bytes, size against parts, rank, dtype, class id, TTL, cost; a size of 0 is legal),
  // RESOURCE_EXHAUSTED (too much is in use, or the object is larger than a chunk; the message says
  // which), UNAVAILABLE (the namespace is closed).
  absl::StatusOr<std::optional<WriteLease>> Reserve(const PutSpec& spec);
  // Makes all parts visible at once. kExists: without overwrite, another commit of this key came
  // first; this object's bytes are freed. UNAVAILABLE: the namespace was closed meanwhile.
  // RESOURCE_EXHAUSTED (all but impossible): all objects in this key's bucket chain are in use.
  // REQUIRES: `lease` came from this namespace and was neither committed nor moved from.
  absl::StatusOr<CommitOutcome> Commit(WriteLease lease, const UseContext& use = {});

  // Pins the object and counts a hit and, if `touch`, a use; or counts a miss.
  std::optional<ReadLease> Lookup(const ObjectId& id, bool touch = true,
                                  const UseContext& use = {});
  // Size of the object; counts as a use if `touch`. Counts neither hit nor miss.
  std::optional<uint64_t> Probe(const ObjectId& id, bool touch, const UseContext& use = {});
  uint64_t NewRequest();
  // What names an object in UseContext::anchor.
  Hash128 ChainHash(const ObjectId& id) const;

  // Single flight: whether the key is visible (then it counts as used), or who computes it. What
  // `party` waits for it is told later; see claims.h. Errors: those of Claims::Join. REQUIRES: a
  // key of legal length; times within kMaxWaitMs and kMaxClaimMs.
  struct GetOrReserved {
    enum class State : uint8_t { kHit, kWin, kWait, kMiss };
    State state = State::kMiss;
    uint64_t ticket = 0;  // kWin, kWait
  };
  absl::StatusOr<GetOrReserved> GetOrReserve(const ObjectId& id, const ClaimParty& party,
                                             const Claims::Request& request);
  Claims& claims();
  // Whether a claim of `party` is one to this key. From here on it lasts as long as the reservation
  // that the party has of it.
  bool BindClaim(const ClaimParty& party, uint64_t ticket, const ObjectId& id);

  // True if it was there; of a tier whose objects move down, also if it was below. Readers that
  // hold it keep it until they let go.
  bool Erase(const ObjectId& id);
  // Erases every object whose key starts with `key_prefix`, under any fingerprint, in the tiers
  // too. Returns how many.
  uint64_t Flush(std::string_view key_prefix);
  // Objects under `fingerprint` whose key starts with `key_prefix` and is greater than `after`.
  // At most `limit`, with at most `max_bytes` of keys and part tables, but one if there is one.
  // Costs a walk over the index, in pieces of one shard; concurrent changes may or may not show.
  ListPage List(const Hash128& fingerprint, std::string_view key_prefix, std::string_view after,
                size_t limit, uint64_t max_bytes = UINT64_MAX) const;

  // Upkeep: frees limbo that no reader names any more, expires objects, evicts down to the free
  // reserve. Bounded work per call. Returns true if more work is waiting.
  bool Maintain();

  // Changes which objects go first, in the tiers too; what is there stays, in the order that it
  // had. Returns the policy before. INVALID_ARGUMENT: unknown policy.
  absl::StatusOr<std::string> SetPolicy(std::string_view name);
  std::string policy() const;  // the one at work; spec() has the first
  // From here on it is `since_start_ms` after the start, for the policy, unless it is later
  // already. What clients have touched until now is applied before. FAILED_PRECONDITION: the
  // namespace has no virtual clock.
  absl::Status AdvanceClock(uint64_t since_start_ms);

  NamespaceStats Stats() const;
  bool closed() const;

  // Its tiers, as they are now. Of the tiers themselves there are none.
  std::vector<DeviceTier> device_tiers() const ABSL_LOCKS_EXCLUDED(tiers_mu_);
  // UNIMPLEMENTED says that it is off, and why; NOT_FOUND that none was asked for on that device.
  absl::StatusOr<std::shared_ptr<Namespace>> FindDeviceTier(std::string_view device) const
      ABSL_LOCKS_EXCLUDED(tiers_mu_);
  // In the place of what was said of that device so far.
  void SetDeviceTier(DeviceTier tier) ABSL_LOCKS_EXCLUDED(tiers_mu_);

  // --- Of a tier whose objects move down into its namespace's host memory; see demotion.cc ---
  // What has to go for enough room to be free before puts take it.
  uint64_t BytesToDemote() const;
  // An object that would go next, and room below for its bytes; none if it is there already.
  struct Demotion {
    ReadLease from;
    std::optional<WriteLease> to;
    uint64_t flushes = 0;  // as many as were over below when it was begun
  };
  // As many as have `bytes`; at most `limit`. What finds no room below stays.
  std::vector<Demotion> BeginDemotion(uint64_t bytes, size_t limit);
  // Of what BeginDemotion returned, whose bytes are in their new places: the objects are there, and
  // no longer here, but for those that somebody has taken hold of or changed meanwhile. What is not
  // handed over stays here. Returns how many moved.
  size_t FinishDemotion(std::vector<Demotion> demotions);

  // --- For the same-host lane ---
  // `page`'s pins count from here until Detach, and its touches are applied when victims are
  // looked for.
  void AttachPage(std::shared_ptr<ClientPage> page);
  // What the client left in its rings and counters is taken in first. No-op if not attached.
  void DetachPage(const std::shared_ptr<ClientPage>& page);
  // Applies at most `limit` of the page's touches to the recency of what they name. Returns how
  // many it took; fewer than `limit` = there are no more.
  size_t DrainTouches(ClientPage& page, size_t limit);
  // What the page's slots hold right now.
  struct PinUse {
    uint64_t pins = 0;
    uint64_t bytes = 0;
    uint64_t largest_bytes = 0;  // of one object
  };
  PinUse PinsOf(const ClientPage& page) const;

  // The index segment and the arena, for clients to map. Chunks have one size; a record's segment
  // is the number of its chunk.
  std::span<std::byte> index_memory() const;
  int index_fd() const;                                    // owned by the namespace
  std::vector<std::span<std::byte>> arena_chunks() const;  // empty ones in a GPU
  uint32_t chunk_count() const;
  uint64_t chunk_bytes() const;
  // A descriptor through which `chunk` can be mapped; for writing only if `writable` (a GPU's
  // memory always). Errors name the call that failed. REQUIRES: `chunk` exists; writable only if
  // the spec permits it.
  absl::StatusOr<UniqueFd> OpenChunk(uint32_t chunk, bool writable) const;
  PageKind page_kind() const;  // of the arena

 private:
  friend class Store;
  friend class WriteLease;
  friend class ReadLease;
  class Impl;

  explicit Namespace(std::unique_ptr<Impl> impl);
  void Abort(uint32_t record);
  void Unpin(uint32_t record);
  void Close() ABSL_LOCKS_EXCLUDED(tiers_mu_);
  // Those that are there.
  std::vector<std::shared_ptr<Namespace>> Tiers() const ABSL_LOCKS_EXCLUDED(tiers_mu_);

  const std::unique_ptr<Impl> impl_;
  Mutex set_policy_mu_;     // one change at a time, of the tiers too
  mutable Mutex tiers_mu_;  // a leaf
  std::vector<DeviceTier> tiers_ ABSL_GUARDED_BY(tiers_mu_);
};

}  // namespace infercache::store
