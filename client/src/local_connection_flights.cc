// What of a connection's traffic is about claims, and what is given back when nobody wants it any
// more.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/src/daemon_status.h"
#include "client/src/local_connection.h"
#include "common/limits.h"

namespace infercache {

using std::chrono::steady_clock;

LocalConnection::OnAnswer LocalConnection::Tells(std::shared_ptr<FlightListener> listener) {
  return
      [listener = std::move(listener)](LocalAnswer answer) { listener->OnNews(std::move(answer)); };
}

void LocalConnection::SubmitFlight(v1::LocalRequest& request, LocalDeadline deadline,
                                   std::shared_ptr<FlightListener> listener) {
  absl::Status sent;
  {
    MutexLock lock(&mu_);
    const uint64_t id = next_id_;
    Pending pending = {.expected = v1::LocalResponse::kClaimAnswers,
                       .deadline = deadline,
                       .on_answer = Tells(listener)};
    sent = Send(request, pending);
    if (sent.ok()) {
      deadlines_.emplace(deadline, id);
      // Here already, so that no event comes before it.
      flights_.emplace(id, Flight{listener, deadline, request.get_or_reserve().keys_size()});
      flight_deadlines_.emplace(deadline, id);
      SetWatch(/*readable=*/true, watch_writable_);
      if (io_ != nullptr) io_->WakeBy(deadline);
    }
  }
  if (!sent.ok()) {
    listener->OnNews({.status = std::move(sent), .reached = Reached::kNo, .sent = false});
  }
}

void LocalConnection::EndFlight(uint64_t id) {
  const auto it = flights_.find(id);
  if (it == flights_.end()) return;
  flight_deadlines_.erase({it->second.deadline, id});
  flights_.erase(it);
}

absl::Status LocalConnection::OnClaimAnswers(uint64_t id, const LocalAnswer& answer) {
  const auto it = flights_.find(id);
  if (it == flights_.end()) return absl::OkStatus();  // over already
  if (!answer.status.ok()) {
    EndFlight(id);
    return absl::OkStatus();
  }
  int waiting = 0;
  for (const v1::ClaimAnswer& item : answer.response.claim_answers().items()) {
    if (item.state() == v1::CLAIM_STATE_WAIT) ++waiting;
  }
  const int answered = answer.response.claim_answers().items_size();
  if (answered != it->second.left) {
    return absl::InvalidArgumentError(
        absl::StrCat(answered, " words about ", it->second.left, " keys"));
  }
  it->second.left = waiting;
  if (waiting == 0) EndFlight(id);
  return absl::OkStatus();
}

absl::Status LocalConnection::OnClaimEvents(v1::ClaimEvents events, Ready* ready) {
  std::map<uint64_t, LocalAnswer> news;
  v1::LocalRequest give_up;
  for (v1::ClaimEvent& event : *events.mutable_events()) {
    const auto it = flights_.find(event.request());
    if (it != flights_.end()) {
      if (--it->second.left < 0) return absl::InvalidArgumentError("an event for nothing");
      *news[event.request()].response.mutable_claim_events()->add_events() = std::move(event);
    } else if (event.answer().claim() != 0) {
      // Nobody waits here any more; others do.
      give_up.mutable_give_up()->add_claims(event.answer().claim());
    }
  }
  for (auto& [id, answer] : news) {
    const auto it = flights_.find(id);
    ready->emplace_back(Tells(it->second.listener), std::move(answer));
    if (it->second.left == 0 && !pending_.contains(id)) EndFlight(id);
  }
  if (give_up.has_give_up()) TellLocked(give_up);
  return absl::OkStatus();
}

void LocalConnection::FailFlights(const absl::Status& status, Reached reached, Ready* ready) {
  std::vector<uint64_t> over;
  for (const auto& [id, flight] : flights_) {
    ready->emplace_back(Tells(flight.listener),
                        LocalAnswer{.status = Unshared(status), .reached = reached});
    over.push_back(id);
  }
  flights_.clear();
  flight_deadlines_.clear();
  TellNobodyWaits(over);
}

void LocalConnection::EndOverdueFlights(LocalDeadline now, Ready* ready) {
  std::vector<uint64_t> over;
  while (!flight_deadlines_.empty() && flight_deadlines_.begin()->first <= now) {
    const uint64_t id = flight_deadlines_.begin()->second;
    ready->emplace_back(
        Tells(flights_.at(id).listener),
        LocalAnswer{.status = absl::DeadlineExceededError("the key was not computed in time"),
                    .reached = Reached::kNotInTime});
    EndFlight(id);
    over.push_back(id);
  }
  TellNobodyWaits(over);
}

void LocalConnection::TellNobodyWaits(const std::vector<uint64_t>& requests) {
  v1::LocalRequest give_up;
  for (const uint64_t id : requests) {
    give_up.mutable_give_up()->add_requests(id);
    if (static_cast<size_t>(give_up.give_up().requests_size()) < kMaxItemsPerFrame) continue;
    TellLocked(give_up);
    give_up.Clear();
  }
  if (give_up.has_give_up()) TellLocked(give_up);
}

// --- Giving back ---

// What an answer brings for which nobody waits any more.
void LocalConnection::GiveBack(const v1::LocalResponse& response) {
  if (ReturnLent(response)) return;
  v1::LocalRequest request;
  if (response.has_reserved()) {
    for (const v1::ReservedItem& item : response.reserved().items()) {
      if (item.reservation() != 0) request.mutable_abort()->add_reservations(item.reservation());
    }
    if (request.has_abort()) TellLocked(request);
  } else if (response.has_found()) {
    for (const v1::FoundItem& item : response.found().items()) {
      if (item.lease() != 0) request.mutable_release()->add_leases(item.lease());
    }
    if (request.has_release()) TellLocked(request);
  } else if (response.has_claim_answers()) {
    for (const v1::ClaimAnswer& item : response.claim_answers().items()) {
      if (item.claim() != 0) request.mutable_give_up()->add_claims(item.claim());
    }
    if (request.has_give_up()) TellLocked(request);
  }
}

bool LocalConnection::Expects(v1::LocalResponse::BodyCase body) const {
  return std::any_of(pending_.begin(), pending_.end(),
                     [body](const auto& entry) { return entry.second.expected == body; });
}

void LocalConnection::AwaitReserved(LocalDeadline deadline) {
  constexpr std::chrono::milliseconds kFlushAgain{5};
  MutexLock lock(&mu_);
  const auto expects_room = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return Expects(v1::LocalResponse::kReserved) || Expects(v1::LocalResponse::kClaimAnswers);
  };
  if (!expects_room()) return;
  // Also that the daemon has heard of the aborts: a daemon that sees the end of a connection does
  // not always read what is before it.
  while (!broken() && (expects_room() || Expects(v1::LocalResponse::kEmpty))) {
    const LocalDeadline now = steady_clock::now();
    if (now >= deadline) return;
    Flush();
    const bool unsent = !writer_.empty();
    mu_.Unlock();
    AwaitReadable(socket_.get(), unsent ? std::min(deadline, now + kFlushAgain) : deadline);
    Run(ReadAnswers());
    mu_.Lock();
  }
}

}  // namespace infercache
