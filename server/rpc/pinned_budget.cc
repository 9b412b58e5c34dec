#include "server/rpc/pinned_budget.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/rpc/error.h"

namespace infercache::rpc {
namespace {

bool Fits(uint64_t held, uint64_t bytes, uint64_t bound) {
  return bytes <= bound && held <= bound - bytes;
}

absl::Status Exhausted(const char* whose, uint64_t held, uint64_t bytes, uint64_t bound) {
  return WithReason(absl::ResourceExhaustedError(
                        absl::StrCat("responses on their way hold ", held, " bytes, ", bytes,
                                     " more would exceed the bound of ", bound, whose)),
                    "RESPONSE_BYTES_LIMIT");
}

}  // namespace

PinnedBudget::Hold::~Hold() {
  absl::MutexLock lock(&budget_.mu_);
  budget_.ReleaseLocked(*this, bytes_);
  budget_.holds_.erase(position_);
}

void PinnedBudget::Hold::Release(uint64_t bytes) {
  absl::MutexLock lock(&budget_.mu_);
  budget_.ReleaseLocked(*this, std::min(bytes, bytes_));
}

void PinnedBudget::ReleaseLocked(Hold& hold, uint64_t bytes) {
  hold.bytes_ -= bytes;
  hold.connection_->held_bytes_ -= bytes;
  held_bytes_ -= bytes;
}

void PinnedBudget::Hold::ExpectProgress(TimePoint now) {
  absl::MutexLock lock(&budget_.mu_);
  deadline_ = std::min(end_, now + budget_.limits_.timeout);
}

uint64_t PinnedBudget::StreamCharge(uint64_t size) const {
  return std::min(size, limits_.connection_bytes / 2);
}

absl::StatusOr<std::shared_ptr<PinnedBudget::Hold>> PinnedBudget::Acquire(
    std::shared_ptr<Connection> connection, uint64_t bytes, uint64_t response_bytes,
    TimePoint now) {
  absl::MutexLock lock(&mu_);
  if (!Fits(connection->held_bytes_, bytes, limits_.connection_bytes)) {
    return Exhausted(" per connection", connection->held_bytes_, bytes, limits_.connection_bytes);
  }
  if (!Fits(held_bytes_, bytes, limits_.total_bytes)) {
    return Exhausted("", held_bytes_, bytes, limits_.total_bytes);
  }
  std::shared_ptr<Hold> hold(new Hold(*this, std::move(connection)));
  hold->bytes_ = bytes;
  hold->end_ = now + limits_.timeout * (1 + response_bytes / limits_.timeout_bytes);
  hold->deadline_ = hold->end_;
  hold->position_ = holds_.insert(holds_.end(), hold.get());
  hold->connection_->held_bytes_ += bytes;
  held_bytes_ += bytes;
  return hold;
}

void PinnedBudget::DisconnectStalled(TimePoint now) {
  std::vector<std::shared_ptr<Connection>> stalled;
  {
    absl::MutexLock lock(&mu_);
    for (const Hold* hold : holds_) {
      if (hold->deadline_ > now || hold->connection_->stalled_) continue;
      hold->connection_->stalled_ = true;
      ++stalled_disconnects_;
      stalled.push_back(hold->connection_);
    }
  }
  for (const auto& connection : stalled) connection->Disconnect();
}

bool PinnedBudget::AwaitEmpty(absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(
                                  +[](std::list<Hold*>* holds) { return holds->empty(); }, &holds_),
                              timeout);
}

uint64_t PinnedBudget::held_bytes() const {
  absl::MutexLock lock(&mu_);
  return held_bytes_;
}

uint64_t PinnedBudget::stalled_disconnects() const {
  absl::MutexLock lock(&mu_);
  return stalled_disconnects_;
}

}  // namespace infercache::rpc
