// What a connection sends unasked: how waits ended, and Goodbye.

#include <asio/post.hpp>
#include <utility>

#include "server/local/connection.h"

namespace infercache::local {

void Connection::SayGoodbye(std::string reason) {
  asio::post(context_, [self = shared_from_this(), reason = std::move(reason)] {
    if (self->state_ != State::kOpen) return;
    // Who waits is told before it is told to go.
    self->session_->flights().Close(absl::UnavailableError(reason));
    self->SendClaimEvents();
    self->SendGoodbye(reason);
    self->Continue();
  });
}

bool Connection::OpenFlights() {
  return session_->flights()
      .Open([&context = context_, weak = weak_from_this()] {
        asio::post(context, [weak] {
          const auto self = weak.lock();
          if (self == nullptr || self->state_ != State::kOpen) return;
          self->SendClaimEvents();
          self->Continue();
        });
      })
      .ok();
}

void Connection::SendClaimEvents() {
  Response event;
  while (session_->flights().TakeEvents(event.mutable_claim_events())) {
    Send(event, {});
    event.Clear();
  }
}

void Connection::SendGoodbye(const std::string& reason) {
  if (std::exchange(said_goodbye_, true)) return;
  Response event;
  event.mutable_goodbye()->set_reason(reason);
  Send(event, {});
}

}  // namespace infercache::local
