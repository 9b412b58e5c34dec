#include "client/src/session_pins.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace infercache {

SessionPins::SessionPins(const v1::Welcome& welcome, MappedSegment page,
                         std::shared_ptr<LocalConnection> connection)
    : connection_(std::move(connection)),
      segment_(std::move(page)),
      page_(segment_.bytes(), welcome.slot_capacity()),
      budget_bytes_(welcome.pin_budget_bytes()),
      slots_(page_, welcome.slot_limit()) {}

bool SessionPins::TakeBudget(uint64_t bytes) {
  uint64_t pinned = pinned_bytes_.load(std::memory_order_relaxed);
  do {
    if (bytes > budget_bytes_ || pinned > budget_bytes_ - bytes) return false;
  } while (!pinned_bytes_.compare_exchange_weak(pinned, pinned + bytes, std::memory_order_relaxed));
  return true;
}

void SessionPins::AskForSlots(uint32_t slots) {
  slots = std::min(slots, slots_.capacity());
  if (slots <= slots_.limit() || asking_for_slots_.exchange(true, std::memory_order_relaxed)) {
    return;
  }
  v1::LocalRequest request;
  request.mutable_grow_slots()->set_slots(slots);
  // The connection does not keep the pins: it is they that keep the connection.
  constexpr std::chrono::seconds kPatience{10};
  connection_->Submit(request, std::chrono::steady_clock::now() + kPatience,
                      [pins = weak_from_this()](LocalAnswer answer) {
                        const std::shared_ptr<SessionPins> self = pins.lock();
                        if (self == nullptr) return;
                        if (answer.status.ok()) {
                          self->SlotsGranted(answer.response.slots_granted().slot_limit());
                        }
                        self->asking_for_slots_.store(false, std::memory_order_relaxed);
                      });
}

void SessionPins::SlotsGranted(uint32_t limit) {
  slots_.RaiseLimit(limit);
  grants_slots_.store(limit > 0, std::memory_order_relaxed);
}

}  // namespace infercache
