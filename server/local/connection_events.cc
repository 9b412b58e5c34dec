// What a connection sends unasked: how waits ended, what became of loans, and Goodbye.

#include <algorithm>
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

void Connection::OpenLoans() {
  session_->loans().Open([&context = context_, weak = weak_from_this()] {
    asio::post(context, [weak] {
      const auto self = weak.lock();
      if (self == nullptr || self->state_ != State::kOpen) return;
      self->SendLentEvents();
      self->Continue();
    });
  });
}

void Connection::SendLentEvents() {
  v1::LentEvents events;
  if (!session_->loans().TakeEvents(&events)) return;
  // A frame has room for so many numbers, whatever they are.
  constexpr int kMost = 32'768;
  for (int i = 0; i < std::max(events.free_size(), events.gone_size()); i += kMost) {
    Response event;
    const auto piece = [i](const auto& all, auto* some) {
      for (int k = i; k < std::min(all.size(), i + kMost); ++k) some->Add(all.Get(k));
    };
    piece(events.free(), event.mutable_lent_events()->mutable_free());
    piece(events.gone(), event.mutable_lent_events()->mutable_gone());
    Send(event, {});
  }
}

void Connection::SendGoodbye(const std::string& reason) {
  if (std::exchange(said_goodbye_, true)) return;
  Response event;
  event.mutable_goodbye()->set_reason(reason);
  Send(event, {});
}

}  // namespace infercache::local
