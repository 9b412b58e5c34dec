// What an eviction policy is: it keeps a namespace's visible records in some order and names the
// one that is worth least. It frees nothing; who asks decides whether the named record goes.
//
// One object orders the whole namespace: capacity is shared by all shards, not split.
//
// Not thread-safe: server/store/ranking.h is the lock around it. Every call is cheap (lists and
// small tables, no search over all records) but Victim, which passes over records in use.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace infercache::store {

// A policy's memory of one record, in an array by record number. 0 is no record.
struct PolicyNode {
  uint32_t newer = 0;
  uint32_t older = 0;
  uint32_t group = 0;        // the policy's: a priority, a segment
  uint32_t used_ms = 0;      // low half of the time of the last use that counted; see CountUse
  uint8_t list = 0;          // which of the policy's lists holds it; 0 = none, it is not a member
  uint8_t uses = 0;          // the policy's
  uint8_t class_id : 4 = 0;  // ObjectInfo::class_id, an opaque hint
  uint8_t repeats : 4 = 0;   // since the last use that counted; see CountUse
  uint8_t owner = 0;         // the ranking's: which of its policies has it
  uint32_t stored_ms = 0;    // the ranking's: low half of the time when it came
};
static_assert(sizeof(PolicyNode) == 24);

// A record comes, or is used. A request's blocks are told from its last one to its first, so that
// what all others need stays longest.
struct Use {
  uint64_t now_ms = 0;        // no call's is earlier than that of the call before
  uint64_t request = 0;       // equal for what belongs together; never 0
  bool ends_request = false;  // the block is the last of its request
  // Of a use, by CountUse: how long after the last one that counted; and whether it is a repeat of
  // that, which shows that the block is needed now, but is no further sign that it will be again.
  uint64_t idle_ms = 0;
  bool repeat = false;
  // Of a new record:
  uint64_t hash = 0;        // names the object before, between and after its records
  uint32_t anchor = 0;      // the member behind which it belongs: its chain goes on there; 0 = none
  uint64_t age_ms = 0;      // since its last use, if another policy had it until now
  uint64_t size_bytes = 0;  // 0 = not known
};

// A request looks for its prefix, reads it, stores the rest and may touch it all: several uses of a
// block within this time are one, as long as they are no more than a request has.
inline constexpr uint32_t kRepeatMs = 100;
inline constexpr uint8_t kMostRepeats = 3;

// Enters a use at `use->now_ms` in the node, and says in `use` what it is.
inline void CountUse(PolicyNode& node, Use* use) {
  const auto now = static_cast<uint32_t>(use->now_ms);
  use->idle_ms = now - node.used_ms;
  use->repeat = use->idle_ms < kRepeatMs && node.repeats < kMostRepeats;
  if (use->repeat) {
    ++node.repeats;
    return;
  }
  node.repeats = 0;
  node.used_ms = now;
}

// A record goes.
struct Departure {
  uint64_t now_ms = 0;
  uint64_t hash = 0;
  uint64_t idle_ms = 0;
  bool evicted = false;  // else erased, replaced or expired: nothing to learn from
};

class Policy {
 public:
  // Whether a record may go now.
  using MayGo = absl::FunctionRef<bool(uint32_t record)>;

  virtual ~Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;

  // Makes `record` a member. The policy's own fields of its node are zero.
  virtual void Insert(uint32_t record, const Use& use) = 0;
  virtual void Touch(uint32_t record, const Use& use) = 0;
  // Fetch into the CPU's cache what will be needed by Touch of this record, whose node is there and
  // which may be no member; and by Insert or Remove of what has this hash.
  virtual void PrefetchTouch(uint32_t) const {}
  virtual void PrefetchHash(uint64_t) const {}
  // Ends the membership; the node's `list` is 0 afterwards.
  virtual void Remove(uint32_t record, const Departure& departure) = 0;
  // The worst member that may go, 0 if there is none. It stays a member. Members that may not go
  // are in use and treated so: they move out of the way of the next search.
  virtual uint32_t Victim(uint64_t now_ms, MayGo may_go) = 0;
  // Beyond the nodes: what the policy knows of objects that are gone, tables.
  virtual size_t memory_bytes() const = 0;

 protected:
  Policy() = default;
};

// "lru, fifo, ...", for messages.
std::string PolicyNames();
// INVALID_ARGUMENT "unknown policy 'x'; there are lru, fifo, ...".
absl::Status CheckPolicyName(std::string_view name);
// `nodes` outlives the policy and is its alone. Errors: those of CheckPolicyName.
absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(std::string_view name, PolicyNode* nodes);

}  // namespace infercache::store
