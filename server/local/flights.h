// What one session claims and waits for, between its frames and the namespace's claims
// (server/store/claims.h).
//
// Not thread-safe: its connection's thread. What other threads tell it is kept until that thread
// takes it. Its end passes on what it claims.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "common/hash.h"
#include "common/mutex.h"
#include "infercache/v1/local.pb.h"
#include "server/store/namespace.h"

namespace infercache::local {

class Flights {
 public:
  // `may_win`: the session may put.
  Flights(std::shared_ptr<store::Namespace> ns, const Hash128& fingerprint, bool may_win);
  ~Flights();
  Flights(const Flights&) = delete;
  Flights& operator=(const Flights&) = delete;

  // From here on the session may ask. `wake` is called on any thread, not after Close, when there
  // are events to take; it must not block. UNAVAILABLE: the namespace takes no claims any more.
  absl::Status Open(std::function<void()> wake);
  // Waits end with `why`, claims pass on, and nothing more is asked.
  void Close(const absl::Status& why);

  // The verbs of local.proto. FAILED_PRECONDITION: not open. INVALID_ARGUMENT names the limit.
  // REQUIRES: keys of legal length, at most kMaxItemsPerFrame.
  absl::Status GetOrReserve(uint64_t request_id, const v1::GetOrReserve& request,
                            v1::ClaimAnswers* response);
  void GiveUp(const v1::GiveUp& request);

  // A reservation of `key` takes the claim over. False: there is no such claim (any more).
  bool BindToReservation(uint64_t claim, std::string_view key);
  // The reservation that had it came to nothing. 0 = it had none.
  void GiveUp(uint64_t claim);

  // What has happened since, at most a frame's worth. False: nothing.
  bool TakeEvents(v1::ClaimEvents* events);

 private:
  // What other threads speak to.
  class Party final : public store::ClaimParty {
   public:
    void Open(std::function<void()> wake) ABSL_LOCKS_EXCLUDED(mu_);
    void Close() ABSL_LOCKS_EXCLUDED(mu_);
    std::vector<store::ClaimEvent> Take() ABSL_LOCKS_EXCLUDED(mu_);

    void OnClaimEvents(std::span<const store::ClaimEvent> events) override ABSL_LOCKS_EXCLUDED(mu_);
    // What waits is told by events; the session itself by a Goodbye.
    void OnClaimsClosed(const absl::Status&) override {}

   private:
    Mutex mu_;
    std::function<void()> wake_ ABSL_GUARDED_BY(mu_);  // empty = closed
    std::vector<store::ClaimEvent> events_ ABSL_GUARDED_BY(mu_);
  };
  // Where a wait was asked for.
  struct Asked {
    uint64_t request;
    uint32_t index;
  };

  v1::ClaimAnswer Ask(std::string_view key, const store::Claims::Request& request,
                      const Asked& asked);

  const std::shared_ptr<store::Namespace> namespace_;
  const Hash128 fingerprint_;
  const bool may_win_;
  const std::shared_ptr<Party> party_ = std::make_shared<Party>();
  bool open_ = false;
  std::unordered_map<uint64_t, Asked> waits_;  // by ticket
  std::vector<store::ClaimEvent> untold_;      // taken from the party, the next one last
};

}  // namespace infercache::local
