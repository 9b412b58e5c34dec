// Single flight: who computes a key that is not there, and who waits for it.
//
// The first party that asks for a missing key gets the claim to compute it; the others wait, in
// order of arrival. A wait ends with
//   kHit    the key became visible, whoever committed it
//   kWin    the claim passed on to this one: its holder gave it up, took too long, or left
//   kMiss   the deadline came, or nobody is left who could compute, or the table closed
//
// No wake-up is lost. Whoever joins asks the store, joins, and asks the store again; whoever
// commits publishes under the lock of the key's shard, and then calls OnVisible. If the publication
// came before the second look, that sees it (both take the shard's lock). If it came after, joining
// came before OnVisible, which finds the one who joined. Namespace::GetOrReserve is the joining
// side and Namespace::Commit the other; there is no third.
//
// Thread-safe. Parties are called without locks, on the thread that made the change: a committer, a
// session that ends, or upkeep. `mu_` is a leaf: taken with nothing held, and nothing is taken
// under it.

#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/hash.h"
#include "common/mutex.h"

namespace infercache::store {

// How a wait ended.
struct ClaimEvent {
  enum class Outcome : uint8_t { kHit, kWin, kMiss };
  uint64_t ticket = 0;  // what the wait was called; a win is a claim under the same number
  Outcome outcome = Outcome::kMiss;
  uint64_t claim_ms = 0;  // kWin: how long the claim holds
  absl::Status why = {};  // kMiss
};

// Who claims and waits: a session, or a stream. Its end gives everything back (Claims::Leave).
class ClaimParty {
 public:
  virtual ~ClaimParty() = default;
  // Called without locks, on any thread, several at once. Events that come while the party leaves
  // are about what has been taken back already.
  virtual void OnClaimEvents(std::span<const ClaimEvent> events) = 0;
  // Nothing is claimed here any more: the daemon drains or the namespace is deleted.
  virtual void OnClaimsClosed(const absl::Status& why) = 0;
};

struct ClaimStats {
  uint64_t claims = 0, waiters = 0;  // now
  uint64_t granted = 0;              // claims, totals from here on
  uint64_t waits_hit = 0, waits_won = 0, waits_missed = 0;
};

class Claims {
 public:
  struct Limits {
    size_t per_party;  // claims and waits together
    size_t total;
  };
  // What a party asks for. Times are from now.
  struct Request {
    uint64_t wait_ms = 0;   // 0 = does not wait
    uint64_t claim_ms = 0;  // how long a claim holds unless it is bound to a reservation
    bool may_win = true;    // false: waits for others, and never computes
  };
  struct Joined {
    enum class State : uint8_t { kWon, kWaiting, kNobody };
    // kNobody: nobody computes it and this one may not, or somebody does and this one does not
    // wait.
    State state = State::kNobody;
    uint64_t ticket = 0;
  };

  // `clock` outlives this.
  Claims(const Clock& clock, Limits limits) : clock_(clock), limits_(limits) {}
  Claims(const Claims&) = delete;
  Claims& operator=(const Claims&) = delete;

  // UNAVAILABLE once closed. Every party that enters leaves.
  absl::Status Enter(const std::shared_ptr<ClaimParty>& party) ABSL_LOCKS_EXCLUDED(mu_);
  // Its waits are forgotten, its claims pass on.
  void Leave(const ClaimParty& party) ABSL_LOCKS_EXCLUDED(mu_);

  // RESOURCE_EXHAUSTED names the limit; UNAVAILABLE: closed; CANCELLED: the party has left.
  absl::StatusOr<Joined> Join(const ClaimParty& party, const Hash128& key, const Request& request)
      ABSL_LOCKS_EXCLUDED(mu_);
  // A claim passes on, a wait is forgotten. False if the party has no such ticket (any more).
  bool GiveUp(const ClaimParty& party, uint64_t ticket) ABSL_LOCKS_EXCLUDED(mu_);
  // The claim lasts as long as its holder's reservation, whose end is a commit or GiveUp. False if
  // the party holds no such claim of this key.
  bool BindToReservation(const ClaimParty& party, uint64_t ticket, const Hash128& key)
      ABSL_LOCKS_EXCLUDED(mu_);

  // The key has become visible. Costs one load while nothing is claimed.
  void OnVisible(const Hash128& key) ABSL_LOCKS_EXCLUDED(mu_);
  // Ends what is over by the clock.
  void Expire() ABSL_LOCKS_EXCLUDED(mu_);
  // Ends every wait, drops every claim and admits no more. Idempotent.
  void Close(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);

  ClaimStats stats() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  static constexpr uint64_t kNever = UINT64_MAX;

  struct KeyHash {
    size_t operator()(const Hash128& key) const { return key.lo; }
  };
  using Waiters = std::list<uint64_t>;  // tickets in order of arrival
  // A key that is being computed. There is always somebody who does.
  struct Flight {
    uint64_t claim = 0;
    Waiters waiters;
  };
  struct Member {
    std::shared_ptr<ClaimParty> party;
    std::set<uint64_t> tickets;
  };
  struct Ticket {
    Hash128 key;
    Member* member;
    uint64_t deadline_ms;
    uint64_t claim_ms;
    bool is_claim;
    bool may_win;
    Waiters::iterator position;  // of a wait
  };
  using Flights = absl::flat_hash_map<Hash128, std::unique_ptr<Flight>, KeyHash>;
  // What parties are to hear once the lock is released.
  class Notices;

  uint64_t AddTicket(Member& member, Ticket ticket) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SetDeadline(uint64_t number, Ticket& ticket, uint64_t deadline_ms)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Forgets a ticket that is in no flight any more.
  void Forget(uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndWait(uint64_t number, ClaimEvent event, Notices* notices)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The holder's ticket is gone: to the first who may have it, or the flight is over.
  void PassOn(const Hash128& key, Notices* notices) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Drop(uint64_t number, Notices* notices) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EraseFlight(Flights::iterator flight) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after construction.
  const Clock& clock_;
  const Limits limits_;

  // As many as flights_ has; read without the lock. Relaxed will do: a committer that finds 0 has
  // released the shard's lock before the one who joins takes it for its second look.
  std::atomic<size_t> flight_count_{0};

  mutable Mutex mu_;
  absl::Status closed_ ABSL_GUARDED_BY(mu_);  // not OK: why
  uint64_t next_ticket_ ABSL_GUARDED_BY(mu_) = 1;
  Flights flights_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<uint64_t, Ticket> tickets_ ABSL_GUARDED_BY(mu_);
  std::set<std::pair<uint64_t, uint64_t>> deadlines_ ABSL_GUARDED_BY(mu_);  // and their tickets
  absl::flat_hash_map<const ClaimParty*, std::unique_ptr<Member>> members_ ABSL_GUARDED_BY(mu_);
  ClaimStats stats_ ABSL_GUARDED_BY(mu_);  // the totals
};

}  // namespace infercache::store
