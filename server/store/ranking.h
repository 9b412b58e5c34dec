// A namespace's eviction policy behind a lock, and the log that feeds it.
//
// Whoever makes an object visible, uses one or removes one writes a note into the log, which costs
// a few nanoseconds under a lock of its own. The notes are taken in, in their order, when the log
// is full and before a victim is named: hits do not wait for the policy, and no victim is chosen
// without the latest use.
//
// Thread-safe. Locks: mu_ (the policy) before log_mu_; both are taken under a shard's lock and call
// nothing else. set_policy_mu_ is taken with nothing held.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "common/hash.h"
#include "common/mutex.h"
#include "server/store/events.h"
#include "server/store/eviction/ghosts.h"
#include "server/store/eviction/policy.h"
#include "server/store/index_segment.h"
#include "server/store/record_state.h"
#include "server/store/space.h"
#include "server/store/sparse_array.h"
#include "server/store/use_stats.h"

namespace infercache::store {

class Ranking {
 public:
  // Whether a record may go now.
  using MayGo = absl::FunctionRef<bool(uint32_t record)>;

  // `index` and `space` outlive the ranking. `assumed_object_bytes`: see StoreOptions.
  // INVALID_ARGUMENT: unknown policy. RESOURCE_EXHAUSTED: no address space.
  static absl::StatusOr<std::unique_ptr<Ranking>> Create(std::string_view policy,
                                                         const IndexSegment& index,
                                                         const Space& space,
                                                         uint64_t assumed_object_bytes);

  // The object behind which a new one belongs.
  struct Anchor {
    uint64_t hash = 0;  // 0 = none
    uint64_t pin = 0;   // what MakePin says of it; 0 = it is not there
  };

  // For whatever belongs together: see UseContext. Never 0.
  uint64_t NewRequest() { return next_request_.fetch_add(1, std::memory_order_relaxed); }

  // REQUIRES, of the next three: the lock of the record's shard is held, and `record` is visible,
  // or was until now. `replaces`: another object of its key, which was visible until now.
  void Arrived(uint32_t record, uint64_t request, bool ends_request, const Anchor& anchor,
               bool replaces, uint64_t now_ms) ABSL_LOCKS_EXCLUDED(mu_, log_mu_);
  void Used(uint32_t record, uint64_t request, bool ends_request, uint64_t now_ms)
      ABSL_LOCKS_EXCLUDED(mu_, log_mu_);
  void Left(uint32_t record, EventKind why, uint64_t now_ms) ABSL_LOCKS_EXCLUDED(mu_, log_mu_);
  // A use that a client tells of, by the word that pinned the object then: any word, at any time.
  void UsedByClient(uint64_t pin, uint64_t request, bool ends_request, uint64_t now_ms)
      ABSL_LOCKS_EXCLUDED(mu_, log_mu_);

  // The visible object that is worth least, of those that may go.
  std::optional<Incarnation> Victim(uint64_t now_ms, MayGo may_go)
      ABSL_LOCKS_EXCLUDED(mu_, log_mu_);

  // Another policy ranks the objects when this returns, beginning with the order that there is.
  // They go over piece by piece, the worst first, and nobody else waits for more than a piece.
  // Returns the policy before. INVALID_ARGUMENT: unknown policy.
  absl::StatusOr<std::string> SetPolicy(std::string_view name, uint64_t now_ms)
      ABSL_LOCKS_EXCLUDED(set_policy_mu_, mu_, log_mu_);
  std::string policy() const ABSL_LOCKS_EXCLUDED(mu_);

  UseStats Stats() ABSL_LOCKS_EXCLUDED(mu_, log_mu_);
  uint64_t memory_bytes(uint32_t records_ever_used) const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Note {
    enum class Kind : uint8_t { kArrival, kUse, kClientUse, kEviction, kExpiry, kLoss };
    Kind kind = Kind::kUse;
    bool ends_request = false;
    bool replaces = false;
    uint8_t class_id = 0;
    uint32_t record = 0;
    uint64_t now_ms = 0;
    uint64_t request = 0;
    uint64_t pin = 0;   // of the anchor, or of what a client used
    uint64_t hash = 0;  // of what comes or goes
    uint64_t anchor_hash = 0;
    uint64_t size_bytes = 0;
  };
  static constexpr size_t kNotes = 512;
  // Records are used in no order of theirs: what a note needs is fetched while those before it are
  // taken in.
  static constexpr size_t kNotesAhead = 8;
  // Of a change of policy, under one lock: some 50 us; and as much as a put can wait for.
  static constexpr size_t kMovesPerLock = 512;
  static constexpr size_t kMovesPerVictim = 16;
  // A chain goes on behind its parent if that was used no longer ago: else the parent is about to
  // go itself, and what is new would with it.
  static constexpr uint32_t kAnchorMs = 60'000;

  Ranking(const IndexSegment& index, const Space& space, uint64_t assumed_object_bytes,
          SparseArray<PolicyNode> nodes, std::string_view name, std::unique_ptr<Policy> policy);

  void Write(Note note) ABSL_LOCKS_EXCLUDED(mu_, log_mu_);
  void TakeNotes() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Of recency_, by runs: an operation on what all threads share would wait for each note's stores.
  uint64_t NextStamp(uint64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Threads look at the clock before they write: a note may be older than the one before it. For
  // the policies time does not go back.
  uint64_t NeverBack(uint64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return latest_ms_ = std::max(latest_ms_, now_ms);
  }
  void Apply(const Note& note, uint64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ApplyArrival(const Note& note, uint64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The member behind which the policy puts what comes; 0 = it is the newest.
  uint32_t AnchorOf(const Note& note, uint64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ApplyUse(const Note& note, uint64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ApplyDeparture(const Note& note, uint64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // A miss, by what it is due to.
  void CountMiss(uint64_t hash, uint32_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Policy& PolicyOf(uint32_t record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return nodes_[record].owner == owner_ ? *policy_ : *next_;
  }
  // The worst of what policy_ has goes over to next_. False if there is no more.
  bool MoveMembers(size_t count, uint64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether `pin` names a member as it is now, and not what was in its record before.
  bool IsMember(uint64_t pin) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after construction.
  const IndexSegment& index_;
  const Space& space_;
  const uint64_t assumed_object_bytes_;

  std::atomic<uint64_t> next_request_{1};
  RecencyClock recency_;

  Mutex set_policy_mu_ ABSL_ACQUIRED_BEFORE(mu_);  // one change at a time
  mutable Mutex mu_;
  const SparseArray<PolicyNode> nodes_ ABSL_GUARDED_BY(mu_);
  std::string name_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<Policy> policy_ ABSL_GUARDED_BY(mu_);
  uint8_t owner_ ABSL_GUARDED_BY(mu_) = 0;  // of the nodes that are policy_'s
  // While the policy changes, what comes is still policy_'s, and what is worst of all already this
  // one's.
  std::unique_ptr<Policy> next_ ABSL_GUARDED_BY(mu_);
  uint64_t moved_used_ms_ ABSL_GUARDED_BY(mu_) = 0;  // of the last one moved, as next_ was told it
  uint64_t moved_request_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<Note> taken_ ABSL_GUARDED_BY(mu_);  // keeps its memory
  uint64_t latest_ms_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t next_stamp_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t stamps_ms_ ABSL_GUARDED_BY(mu_) = 0;
  size_t stamps_left_ ABSL_GUARDED_BY(mu_) = 0;

  UseStats stats_ ABSL_GUARDED_BY(mu_);
  size_t members_ ABSL_GUARDED_BY(mu_) = 0;
  // The latest that were evicted or expired, by kind, at most as many as there are members:
  // what a namespace of twice the capacity would have besides, whatever the policy is.
  static constexpr uint8_t kGhostEvicted = 0, kGhostExpired = 1;
  GhostTable gone_ ABSL_GUARDED_BY(mu_);

  Mutex log_mu_ ABSL_ACQUIRED_AFTER(mu_);
  std::vector<Note> log_ ABSL_GUARDED_BY(log_mu_);
};

}  // namespace infercache::store
