// What a Flight stream waits for: where each wait was asked for, by its ticket. Not thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

#include "server/store/claims.h"

namespace infercache::rpc {

class FlightWaits {
 public:
  struct Asked {
    uint64_t id;
    uint32_t index;
  };

  // A key is answered, with WAIT if it has a ticket. Returns the event that ends the wait, if it
  // came first. Answers come one by one, each before the next key is asked for.
  std::optional<store::ClaimEvent> OnAnswer(std::optional<uint64_t> ticket, const Asked& asked) {
    std::optional<store::ClaimEvent> ended;
    if (ticket) {
      const auto early = early_.find(*ticket);
      if (early != early_.end()) {
        ended = early->second;
      } else {
        waits_.emplace(*ticket, asked);
      }
    }
    early_.clear();  // the others' waits were given up before
    return ended;
  }
  // Where the wait was asked for that `event` ends; nullopt if it is not answered yet.
  std::optional<Asked> OnEvent(const store::ClaimEvent& event) {
    const auto wait = waits_.extract(event.ticket);
    if (wait) return wait.mapped();
    early_.emplace(event.ticket, event);
    return std::nullopt;
  }
  void OnGiveUp(uint64_t ticket) { waits_.erase(ticket); }

  // How many of both it keeps.
  size_t size() const { return waits_.size() + early_.size(); }

 private:
  std::map<uint64_t, Asked> waits_;
  std::map<uint64_t, store::ClaimEvent> early_;  // before their answer
};

}  // namespace infercache::rpc
