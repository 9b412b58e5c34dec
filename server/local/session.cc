#include "server/local/session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"

namespace infercache::local {
namespace {

// With kMaxTouchesPerDrain, 68,000 touches a second and session are taken in, for 2 % of a core;
// more only where victims are looked for, and for a put that goes on behind another block. A worker
// that uses more blocks than that has a sample of them ranked.
constexpr std::chrono::milliseconds kBetweenDrains{15};

// What the slots hold is read now and then: a reading above the bound adds to a score, one below it
// takes less away, so that letting go in between does not hide it. Two in a row end the session,
// since a client may just be about to let go.
constexpr int kOverBudget = 2;
constexpr int kWithinBudget = 1;
constexpr int kTooOften = 4;

}  // namespace

Session::Session(Host& host, uint32_t user, std::shared_ptr<store::Namespace> ns,
                 Fingerprint fingerprint, std::shared_ptr<store::ClientPage> page, PutAccess access)
    : host_(host),
      user_(user),
      namespace_(std::move(ns)),
      fingerprint_(std::move(fingerprint)),
      page_(std::move(page)),
      flights_(namespace_, fingerprint_.hash(), access != v1::Welcome::PUT_ACCESS_NONE),
      puts_(host, namespace_, fingerprint_.hash(), *page_, access, flights_),
      loans_(host, user, *namespace_, fingerprint_.hash(),
             access == v1::Welcome::PUT_ACCESS_IN_PLACE && namespace_->spec().device.empty()) {
  namespace_->AttachPage(page_);
}

Session::~Session() {
  namespace_->DetachPage(page_);
  host_.users.RemoveSlots(user_, grown_slots_);
}

void Session::GiveBack(const v1::LocalRequest& request) {
  if (request.has_return_lent()) loans_.ReturnLent(request.return_lent());
  if (request.has_abort())
    (void)puts_.Abort(request.abort());  // what it does not know is no matter
}

void Session::ExpireReservations(std::chrono::steady_clock::time_point now) {
  Count(host_.counters.reservations_expired, puts_.Expire(now));
}

void Session::DrainTouches(std::chrono::steady_clock::time_point now) {
  if (now < next_drain()) return;
  last_drain_ = now;
  Count(host_.counters.touches_drained, namespace_->DrainTouches(*page_, kMaxTouchesPerDrain));
}

std::chrono::steady_clock::time_point Session::next_drain() const {
  return last_drain_ + kBetweenDrains;
}

uint64_t Session::pin_budget_bytes() const {
  return namespace_->spec().quota_bytes / host_.options.pin_budget_divisor;
}

std::string Session::OverBudget() {
  const store::Namespace::PinUse use = namespace_->PinsOf(*page_);
  const uint64_t held = use.bytes + leased_bytes_;
  uint64_t largest = use.largest_bytes;
  for (const auto& [id, lease] : leases_) largest = std::max(largest, lease.size_bytes());
  // One object at a time comes on top of the budget, however large: else it could not be read, nor
  // copied beside the views that a client holds within its budget.
  const bool over = held - largest > 2 * pin_budget_bytes();
  over_budget_score_ =
      over ? over_budget_score_ + kOverBudget : std::max(over_budget_score_ - kWithinBudget, 0);
  if (over_budget_score_ < kTooOften) return {};
  return absl::StrCat("it holds ", held, " bytes; its budget is ", pin_budget_bytes());
}

}  // namespace infercache::local
