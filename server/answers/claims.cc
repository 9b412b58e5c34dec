#include "server/answers/claims.h"

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "server/answers/failure.h"

namespace infercache {
namespace {

absl::Status CheckTime(const char* field, uint64_t value, uint64_t most) {
  if (value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, "; the limit is ", most));
}

void SetWin(uint64_t ticket, uint64_t claim_ms, v1::ClaimAnswer* answer) {
  answer->set_state(v1::CLAIM_STATE_WIN);
  answer->set_claim(ticket);
  answer->set_claim_ms(claim_ms);
}

void SetMiss(const absl::Status& why, v1::ClaimAnswer* answer) {
  answer->set_state(v1::CLAIM_STATE_MISS);
  SetFailure(why, answer);
}

}  // namespace

absl::StatusOr<store::Claims::Request> ToClaimRequest(uint64_t wait_ms, uint64_t claim_ms) {
  RETURN_IF_ERROR(CheckTime("wait_ms", wait_ms, kMaxWaitMs));
  RETURN_IF_ERROR(CheckTime("claim_ms", claim_ms, kMaxClaimMs));
  return store::Claims::Request{.wait_ms = wait_ms,
                                .claim_ms = claim_ms == 0 ? kDefaultClaimMs : claim_ms};
}

void SetAnswer(const absl::StatusOr<store::Namespace::GetOrReserved>& result, uint64_t claim_ms,
               v1::ClaimAnswer* answer) {
  using State = store::Namespace::GetOrReserved::State;
  if (!result.ok()) return SetMiss(result.status(), answer);
  switch (result->state) {
    case State::kHit:
      return answer->set_state(v1::CLAIM_STATE_HIT);
    case State::kWin:
      return SetWin(result->ticket, claim_ms, answer);
    case State::kWait:
      return answer->set_state(v1::CLAIM_STATE_WAIT);
    case State::kMiss:
      return answer->set_state(v1::CLAIM_STATE_MISS);
  }
}

void SetAnswer(const store::ClaimEvent& event, v1::ClaimAnswer* answer) {
  using Outcome = store::ClaimEvent::Outcome;
  switch (event.outcome) {
    case Outcome::kHit:
      return answer->set_state(v1::CLAIM_STATE_HIT);
    case Outcome::kWin:
      return SetWin(event.ticket, event.claim_ms, answer);
    case Outcome::kMiss:
      return SetMiss(event.why, answer);
  }
}

}  // namespace infercache
