// What one session lends and borrows, between its frames and the table that all share
// (server/local/lending.h).
//
// Not thread-safe: its connection's thread. What other threads tell it is kept until that thread
// takes it.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "common/hash.h"
#include "common/mutex.h"
#include "common/unique_fd.h"
#include "infercache/v1/local.pb.h"
#include "server/local/host.h"
#include "server/local/lending.h"
#include "server/store/namespace.h"

namespace infercache::local {

class Loans {
 public:
  // `allowed`: the session may write to the namespace in place, and is not one with a tier.
  // `user`: the client's.
  Loans(Host& host, uint32_t user, const store::Namespace& ns, const Hash128& fingerprint,
        bool allowed);
  ~Loans();
  Loans(const Loans&) = delete;
  Loans& operator=(const Loans&) = delete;

  // `wake` is called on any thread, not after Close, when there are events to take; it must not
  // block.
  void Open(std::function<void()> wake) { party_->Open(std::move(wake)); }

  // The verbs of local.proto, and PERMISSION_DENIED; Lend also UNAVAILABLE (the daemon drains, the
  // namespace is deleted). REQUIRES: keys of legal length, at most kMaxItemsPerFrame.
  absl::Status Lend(const v1::Lend& request, UniqueFd descriptor, v1::Lent* response);
  absl::Status TakeBack(const v1::TakeBack& request, v1::TakenBack* response);
  absl::Status Borrow(const v1::Borrow& request, v1::Borrowed* response);
  absl::Status MapLent(const v1::MapLent& request, v1::LentMemory* response,
                       std::vector<UniqueFd>* descriptors);
  void ReturnLent(const v1::ReturnLent& request);

  // False: nothing has happened.
  bool TakeEvents(v1::LentEvents* events) { return party_->Take(events); }

  // The session is over while its process is not: what it lends ends. The rest, which that process
  // may still use, is the caller's to keep until it is gone; null = nothing.
  std::unique_ptr<Lending::Member> TakeBorrowed();

 private:
  // What other threads speak to.
  class Party final : public Lending::Party {
   public:
    void Open(std::function<void()> wake) ABSL_LOCKS_EXCLUDED(mu_);
    void Close() ABSL_LOCKS_EXCLUDED(mu_);
    bool Take(v1::LentEvents* events) ABSL_LOCKS_EXCLUDED(mu_);
    void OnLentEvents(const v1::LentEvents& events) override ABSL_LOCKS_EXCLUDED(mu_);

   private:
    Mutex mu_;
    std::function<void()> wake_ ABSL_GUARDED_BY(mu_);  // empty = closed
    v1::LentEvents events_ ABSL_GUARDED_BY(mu_);
  };

  absl::Status CheckAllowed() const;
  absl::Status CheckLends() const;
  // Counts it, unless it is OK.
  absl::Status Counted(absl::Status status) const;
  // Most sessions lend and borrow nothing: joins with the first that does.
  Lending::Member& member();

  Host& host_;
  const uint32_t user_;
  const store::Namespace& namespace_;
  const std::string scope_;
  const bool allowed_;
  const std::shared_ptr<Party> party_ = std::make_shared<Party>();
  std::unique_ptr<Lending::Member> member_;
};

}  // namespace infercache::local
