// What of a connection's traffic is about tensors that are lent.

#include <utility>

#include "client/src/local_connection.h"

namespace infercache {

void LocalConnection::ListenToLending(std::weak_ptr<LendingListener> listener) {
  MutexLock lock(&mu_);
  lending_ = std::move(listener);
  listens_to_lending_ = true;
  SetWatch(/*readable=*/true, watch_writable_);
}

void LocalConnection::OnLentEvents(v1::LentEvents events, Ready* ready) {
  ready->emplace_back(
      [weak = lending_, events = std::move(events)](const LocalAnswer&) {
        if (const auto listener = weak.lock()) listener->OnLentEvents(events);
      },
      LocalAnswer());
}

void LocalConnection::EndLending(const absl::Status& status, Ready* ready) {
  if (!std::exchange(listens_to_lending_, false)) return;
  ready->emplace_back(
      [weak = lending_](const LocalAnswer& answer) {
        if (const auto listener = weak.lock()) listener->OnSessionOver(answer.status);
      },
      LocalAnswer{.status = absl::Status(status.code(), status.message())});
}

bool LocalConnection::ReturnLent(const v1::LocalResponse& response) {
  v1::LocalRequest request;
  if (response.has_borrowed()) {
    for (const v1::BorrowedItem& item : response.borrowed().items()) {
      if (item.loan() != 0) request.mutable_return_lent()->add_loans(item.loan());
    }
  } else if (response.has_lent_memory()) {
    request.mutable_return_lent()->add_allocations(response.lent_memory().allocation());
  } else {
    return false;
  }
  if (request.has_return_lent()) TellLocked(request);
  return true;
}

}  // namespace infercache
