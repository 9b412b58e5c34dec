// GetOrReserve over the same-host lane: claims and waits of one session.

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "client/src/local_link.h"
#include "client/src/transport.h"

namespace infercache {

// A claim of a session. Destroyed unfulfilled, it is given up.
class LocalRight final : public Claim::Right {
 public:
  // `pins` are the session's.
  LocalRight(std::shared_ptr<SessionPins> pins, uint64_t claim)
      : pins_(std::move(pins)), claim_(claim) {}
  ~LocalRight() override;
  void Fulfilled() override { claim_ = 0; }

  // What the session calls it; 0 = it is fulfilled.
  uint64_t number() const { return claim_; }
  const std::shared_ptr<SessionPins>& pins() const { return pins_; }

 private:
  const std::shared_ptr<SessionPins> pins_;
  uint64_t claim_;
};

// As Transport::GetOrReserve. REQUIRES: keys of legal length.
void StartLocalFlight(LocalLink& link, std::span<const std::string_view> keys,
                      LocalDeadline deadline, absl::Duration claim_time,
                      Transport::OnWords on_words);

}  // namespace infercache
