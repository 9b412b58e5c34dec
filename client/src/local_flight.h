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
  LocalRight(std::shared_ptr<LocalSession> session, uint64_t claim)
      : session_(std::move(session)), claim_(claim) {}
  ~LocalRight() override;
  void Fulfilled() override { claim_ = 0; }

  // What the session calls it; 0 = it is fulfilled.
  uint64_t number() const { return claim_; }
  const std::shared_ptr<LocalSession>& session() const { return session_; }

 private:
  const std::shared_ptr<LocalSession> session_;
  uint64_t claim_;
};

// As Transport::GetOrReserve. REQUIRES: keys of legal length.
void StartLocalFlight(LocalLink& link, std::span<const std::string_view> keys,
                      LocalDeadline deadline, absl::Duration claim_time,
                      Transport::OnWords on_words);

}  // namespace infercache
