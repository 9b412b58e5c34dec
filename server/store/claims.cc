#include "server/store/claims.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace infercache::store {
namespace {

using Outcome = ClaimEvent::Outcome;
using State = Claims::Joined::State;

absl::Status DeadlineCame() {
  return absl::DeadlineExceededError("the key was not computed in time");
}

absl::Status NobodyComputes() { return absl::NotFoundError("nobody computes the key any more"); }

// Abseil counts a status' references where ThreadSanitizer does not look: each thread has its own.
absl::Status OwnCopy(const absl::Status& status) { return {status.code(), status.message()}; }

}  // namespace

class Claims::Notices {
 public:
  void Add(std::shared_ptr<ClaimParty> party, ClaimEvent event) {
    std::vector<ClaimEvent>& events = events_[party.get()];
    if (events.empty()) parties_.push_back(std::move(party));
    events.push_back(std::move(event));
  }
  void Send() {
    for (const auto& party : parties_) party->OnClaimEvents(events_[party.get()]);
  }

 private:
  std::vector<std::shared_ptr<ClaimParty>> parties_;  // in the order of their first event
  absl::flat_hash_map<const ClaimParty*, std::vector<ClaimEvent>> events_;
};

absl::Status Claims::Enter(const std::shared_ptr<ClaimParty>& party) {
  MutexLock lock(&mu_);
  if (!closed_.ok()) return OwnCopy(closed_);
  auto member = std::make_unique<Member>();
  member->party = party;
  members_.emplace(party.get(), std::move(member));
  return absl::OkStatus();
}

void Claims::Leave(const ClaimParty& party) {
  Notices notices;
  std::unique_ptr<Member> gone;
  {
    MutexLock lock(&mu_);
    const auto it = members_.find(&party);
    if (it == members_.end()) return;
    gone = std::move(it->second);
    members_.erase(it);
    // Waits first: what the party claims is not to pass on to itself.
    const std::vector<uint64_t> all(gone->tickets.begin(), gone->tickets.end());
    for (const bool claims : {false, true}) {
      for (const uint64_t number : all) {
        const auto ticket = tickets_.find(number);
        if (ticket != tickets_.end() && ticket->second.is_claim == claims) Drop(number, &notices);
      }
    }
  }
  notices.Send();
}

absl::StatusOr<Claims::Joined> Claims::Join(const ClaimParty& party, const Hash128& key,
                                            const Request& request) {
  MutexLock lock(&mu_);
  if (!closed_.ok()) return OwnCopy(closed_);
  const auto entered = members_.find(&party);
  if (entered == members_.end()) return absl::CancelledError("the client has left");
  Member& member = *entered->second;
  auto flight = flights_.find(key);
  const bool computed = flight != flights_.end();
  if (computed ? request.wait_ms == 0 : !request.may_win) return Joined{};
  if (member.tickets.size() >= limits_.per_party) {
    return absl::ResourceExhaustedError(absl::StrCat("this client claims or waits for ",
                                                     limits_.per_party,
                                                     " keys already, which is the limit"));
  }
  if (tickets_.size() >= limits_.total) {
    return absl::ResourceExhaustedError(absl::StrCat(
        limits_.total, " claims and waits are open in this namespace, which is the limit"));
  }
  const uint64_t now = clock_.NowMs();
  Ticket ticket = {.key = key,
                   .member = &member,
                   .deadline_ms = now + (computed ? request.wait_ms : request.claim_ms),
                   .claim_ms = request.claim_ms,
                   .is_claim = !computed,
                   .may_win = request.may_win,
                   .position = {}};
  const uint64_t number = next_ticket_;
  if (computed) {
    Waiters& waiters = flight->second->waiters;
    ticket.position = waiters.insert(waiters.end(), number);
  } else {
    auto made = std::make_unique<Flight>();
    made->claim = number;
    flights_.emplace(key, std::move(made));
    flight_count_.store(flights_.size(), std::memory_order_relaxed);
    ++stats_.granted;
  }
  AddTicket(member, ticket);
  return Joined{.state = computed ? State::kWaiting : State::kWon, .ticket = number};
}

uint64_t Claims::AddTicket(Member& member, Ticket ticket) {
  const uint64_t number = next_ticket_++;
  member.tickets.insert(member.tickets.end(), number);
  deadlines_.emplace(ticket.deadline_ms, number);
  tickets_.emplace(number, ticket);
  return number;
}

void Claims::SetDeadline(uint64_t number, Ticket& ticket, uint64_t deadline_ms) {
  deadlines_.erase({ticket.deadline_ms, number});
  ticket.deadline_ms = deadline_ms;
  if (deadline_ms != kNever) deadlines_.emplace(deadline_ms, number);
}

void Claims::Forget(uint64_t number) {
  const auto it = tickets_.find(number);
  deadlines_.erase({it->second.deadline_ms, number});
  it->second.member->tickets.erase(number);
  tickets_.erase(it);
}

void Claims::EraseFlight(Flights::iterator flight) {
  flights_.erase(flight);
  flight_count_.store(flights_.size(), std::memory_order_relaxed);
}

void Claims::EndWait(uint64_t number, ClaimEvent event, Notices* notices) {
  const Ticket& ticket = tickets_.at(number);
  const Outcome outcome = event.outcome;
  switch (outcome) {
    case Outcome::kHit:
      ++stats_.waits_hit;
      break;
    case Outcome::kWin:
      ++stats_.waits_won;
      break;
    case Outcome::kMiss:
      ++stats_.waits_missed;
      break;
  }
  event.ticket = number;
  flights_.at(ticket.key)->waiters.erase(ticket.position);
  notices->Add(ticket.member->party, std::move(event));
  if (outcome != Outcome::kWin) Forget(number);
}

void Claims::PassOn(const Hash128& key, Notices* notices) {
  const auto it = flights_.find(key);
  Flight& flight = *it->second;
  const uint64_t now = clock_.NowMs();
  for (auto next = flight.waiters.begin(); next != flight.waiters.end();) {
    const uint64_t number = *next++;
    Ticket& ticket = tickets_.at(number);
    if (ticket.deadline_ms <= now) {
      EndWait(number, {.outcome = Outcome::kMiss, .why = DeadlineCame()}, notices);
    } else if (ticket.may_win) {
      EndWait(number, {.outcome = Outcome::kWin, .claim_ms = ticket.claim_ms}, notices);
      ticket.is_claim = true;
      SetDeadline(number, ticket, now + ticket.claim_ms);
      flight.claim = number;
      ++stats_.granted;
      return;
    }
  }
  while (!flight.waiters.empty()) {
    EndWait(flight.waiters.front(), {.outcome = Outcome::kMiss, .why = NobodyComputes()}, notices);
  }
  EraseFlight(it);
}

void Claims::Drop(uint64_t number, Notices* notices) {
  const Ticket& ticket = tickets_.at(number);
  const Hash128 key = ticket.key;
  const bool is_claim = ticket.is_claim;
  if (!is_claim) flights_.at(key)->waiters.erase(ticket.position);
  Forget(number);
  if (is_claim) PassOn(key, notices);
}

bool Claims::GiveUp(const ClaimParty& party, uint64_t number) {
  Notices notices;
  {
    MutexLock lock(&mu_);
    const auto it = tickets_.find(number);
    if (it == tickets_.end() || it->second.member->party.get() != &party) return false;
    if (!it->second.is_claim) ++stats_.waits_missed;
    Drop(number, &notices);
  }
  notices.Send();
  return true;
}

bool Claims::BindToReservation(const ClaimParty& party, uint64_t number, const Hash128& key) {
  MutexLock lock(&mu_);
  const auto it = tickets_.find(number);
  if (it == tickets_.end()) return false;
  Ticket& ticket = it->second;
  if (ticket.member->party.get() != &party || !ticket.is_claim || ticket.key != key) return false;
  SetDeadline(number, ticket, kNever);
  return true;
}

void Claims::OnVisible(const Hash128& key) {
  if (flight_count_.load(std::memory_order_relaxed) == 0) [[likely]]
    return;
  Notices notices;
  {
    MutexLock lock(&mu_);
    const auto it = flights_.find(key);
    if (it == flights_.end()) return;
    Flight& flight = *it->second;
    while (!flight.waiters.empty()) {
      EndWait(flight.waiters.front(), {.outcome = Outcome::kHit}, &notices);
    }
    Forget(flight.claim);
    EraseFlight(it);
  }
  notices.Send();
}

void Claims::Expire() {
  if (flight_count_.load(std::memory_order_relaxed) == 0) [[likely]]
    return;
  Notices notices;
  {
    MutexLock lock(&mu_);
    const uint64_t now = clock_.NowMs();
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
      const uint64_t number = deadlines_.begin()->second;
      if (tickets_.at(number).is_claim) {
        Drop(number, &notices);
      } else {
        EndWait(number, {.outcome = Outcome::kMiss, .why = DeadlineCame()}, &notices);
      }
    }
  }
  notices.Send();
}

void Claims::Close(const absl::Status& why) {
  Notices notices;
  std::vector<std::shared_ptr<ClaimParty>> parties;
  {
    MutexLock lock(&mu_);
    if (!closed_.ok()) return;
    closed_ = OwnCopy(why);
    for (const auto& [party, member] : members_) parties.push_back(member->party);
    for (const auto& [key, flight] : flights_) {
      while (!flight->waiters.empty()) {
        EndWait(flight->waiters.front(), {.outcome = Outcome::kMiss, .why = OwnCopy(why)},
                &notices);
      }
      Forget(flight->claim);
    }
    flights_.clear();
    flight_count_.store(0, std::memory_order_relaxed);
  }
  notices.Send();
  for (const auto& party : parties) party->OnClaimsClosed(why);
}

ClaimStats Claims::stats() const {
  MutexLock lock(&mu_);
  ClaimStats stats = stats_;
  stats.claims = flights_.size();
  stats.waiters = tickets_.size() - flights_.size();
  return stats;
}

}  // namespace infercache::store
