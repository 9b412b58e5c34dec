#include "server/local/flights.h"

#include <algorithm>
#include <iterator>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "server/answers/claims.h"

namespace infercache::local {
namespace {

using State = store::Namespace::GetOrReserved::State;
using Outcome = store::ClaimEvent::Outcome;

}  // namespace

// --- The party ---

void Flights::Party::Open(std::function<void()> wake) {
  MutexLock lock(&mu_);
  wake_ = std::move(wake);
}

void Flights::Party::Close() {
  MutexLock lock(&mu_);
  wake_ = nullptr;
  events_.clear();
}

std::vector<store::ClaimEvent> Flights::Party::Take() {
  MutexLock lock(&mu_);
  return std::exchange(events_, {});
}

void Flights::Party::OnClaimEvents(std::span<const store::ClaimEvent> events) {
  // Under the lock, so that nothing is posted to a server that is gone.
  MutexLock lock(&mu_);
  if (!wake_) return;
  const bool first = events_.empty();
  for (const store::ClaimEvent& event : events) {
    events_.push_back(event);
    // A copy that shares nothing: Abseil counts references where ThreadSanitizer does not look.
    events_.back().why = absl::Status(event.why.code(), event.why.message());
  }
  if (first) wake_();
}

// --- The session's side ---

Flights::Flights(std::shared_ptr<store::Namespace> ns, const Hash128& fingerprint, bool may_win)
    : namespace_(std::move(ns)), fingerprint_(fingerprint), may_win_(may_win) {}

Flights::~Flights() {
  if (!open_) return;
  party_->Close();
  namespace_->claims().Leave(*party_);
}

absl::Status Flights::Open(std::function<void()> wake) {
  RETURN_IF_ERROR(namespace_->claims().Enter(party_));
  party_->Open(std::move(wake));
  open_ = true;
  return absl::OkStatus();
}

void Flights::Close(const absl::Status& why) {
  if (!std::exchange(open_, false)) return;
  // What has happened so far is told as it happened, a win apart: it has passed on by then.
  namespace_->claims().Leave(*party_);
  std::vector<store::ClaimEvent> all(std::make_move_iterator(untold_.rbegin()),
                                     std::make_move_iterator(untold_.rend()));
  std::ranges::move(party_->Take(), std::back_inserter(all));
  party_->Close();
  std::erase_if(all, [](const auto& event) { return event.outcome == Outcome::kWin; });
  std::unordered_map<uint64_t, Asked> left = waits_;
  for (const store::ClaimEvent& event : all) left.erase(event.ticket);
  for (const auto& [ticket, asked] : left) {
    all.push_back({.ticket = ticket, .outcome = Outcome::kMiss, .why = why});
  }
  std::reverse(all.begin(), all.end());
  untold_ = std::move(all);
}

v1::ClaimAnswer Flights::Ask(std::string_view key, const store::Claims::Request& request,
                             const Asked& asked) {
  const auto result = namespace_->GetOrReserve({key, fingerprint_}, *party_, request);
  if (result.ok() && result->state == State::kWait) waits_.emplace(result->ticket, asked);
  v1::ClaimAnswer answer;
  SetAnswer(result, request.claim_ms, &answer);
  return answer;
}

absl::Status Flights::GetOrReserve(uint64_t request_id, const v1::GetOrReserve& request,
                                   v1::ClaimAnswers* response) {
  if (!open_) {
    return absl::FailedPreconditionError(
        "the session has no single flight: its Hello did not ask for it, or it is over");
  }
  ASSIGN_OR_RETURN(store::Claims::Request what,
                   ToClaimRequest(request.wait_ms(), request.claim_ms()));
  what.may_win = may_win_;
  for (int i = 0; i < request.keys_size(); ++i) {
    *response->add_items() = Ask(request.keys(i), what, {request_id, static_cast<uint32_t>(i)});
  }
  return absl::OkStatus();
}

void Flights::GiveUp(const v1::GiveUp& request) {
  for (const uint64_t claim : request.claims()) GiveUp(claim);
  if (request.requests_size() == 0) return;
  const std::unordered_set<uint64_t> requests(request.requests().begin(), request.requests().end());
  std::vector<uint64_t> forgotten;
  for (const auto& [ticket, asked] : waits_) {
    if (requests.contains(asked.request)) forgotten.push_back(ticket);
  }
  for (const uint64_t ticket : forgotten) GiveUp(ticket);
}

bool Flights::BindToReservation(uint64_t claim, std::string_view key) {
  return open_ && namespace_->BindClaim(*party_, claim, {key, fingerprint_});
}

void Flights::GiveUp(uint64_t claim) {
  if (claim == 0 || !open_) return;
  namespace_->claims().GiveUp(*party_, claim);
  waits_.erase(claim);
}

bool Flights::TakeEvents(v1::ClaimEvents* events) {
  if (untold_.empty()) {
    untold_ = party_->Take();
    std::reverse(untold_.begin(), untold_.end());
  }
  while (!untold_.empty() && static_cast<size_t>(events->events_size()) < kMaxItemsPerFrame) {
    const store::ClaimEvent event = std::move(untold_.back());
    untold_.pop_back();
    const auto node = waits_.extract(event.ticket);
    if (node.empty()) continue;  // given up meanwhile
    v1::ClaimEvent& told = *events->add_events();
    told.set_request(node.mapped().request);
    told.set_index(node.mapped().index);
    SetAnswer(event, told.mutable_answer());
  }
  return events->events_size() > 0;
}

}  // namespace infercache::local
