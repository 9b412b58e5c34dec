// An open session: what its client holds, and what each of its requests does. Knows no socket.
//
// Not thread-safe: its connection's thread. Destruction gives everything back: the page is
// detached, leases and reservations are freed.

#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "common/unique_fd.h"
#include "infercache/v1/local.pb.h"
#include "server/local/batch.h"
#include "server/local/flights.h"
#include "server/local/host.h"
#include "server/local/loans.h"
#include "server/local/puts.h"
#include "server/store/client_page.h"
#include "server/store/namespace.h"

namespace infercache::local {

class Session {
 public:
  // Attaches `page` to `ns`.
  Session(Host& host, uint32_t user, std::shared_ptr<store::Namespace> ns, Fingerprint fingerprint,
          std::shared_ptr<store::ClientPage> page, PutAccess access);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Does what `request` asks and sets the body of `response`, with the descriptors to send beside
  // it. `received` came beside the request, if it is a Lend. The result is the answer's status.
  // If `batch`, a new one, is not done then, there is no result yet: call it again.
  // REQUIRES: a body, no Hello, and counts within the limits. A Drain is left to the caller, who
  // can wait for next_drain(), and a ListKeys, which takes long: see Lister.
  absl::Status Handle(const v1::LocalRequest& request, UniqueFd received,
                      v1::LocalResponse* response, std::vector<UniqueFd>* descriptors,
                      Batch* batch);
  absl::Status PutInline(std::span<const InlinePutView> items, v1::PutResults* response) {
    return puts_.PutInline(items, response);
  }

  // What answers a ListKeys: for any thread, whatever becomes of the session.
  using ListAnswer = std::function<absl::Status(v1::KeyPage* response)>;
  ListAnswer Lister(const v1::ListKeys& request) const;

  const store::Namespace& ns() const { return *namespace_; }
  Flights& flights() { return flights_; }
  Loans& loans() { return loans_; }

  // --- Upkeep, ten times a second ---

  void ExpireReservations(std::chrono::steady_clock::time_point now);
  // Applies at most kMaxTouchesPerDrain touches, unless it is too early to do that again.
  void DrainTouches(std::chrono::steady_clock::time_point now);
  std::chrono::steady_clock::time_point next_drain() const;
  // What the session may hold pinned or leased. A single object may be larger.
  uint64_t pin_budget_bytes() const;
  // Empty, or how the session holds more than twice its budget: at two calls in a row, or at more
  // than a third of them for long.
  std::string OverBudget();

  // --- Its end ---

  // Does what `request` asks if that is to give something back, and nothing else.
  void GiveBack(const v1::LocalRequest& request);
  // Tells the client that its pins have stopped counting.
  void Revoke() { page_->Revoke(); }
  // The reservations, in quarantine: the process may still write.
  std::vector<Quarantined> TakeReservations() { return puts_.TakeAll(); }

 private:
  absl::Status GetOrReserve(uint64_t id, const v1::GetOrReserve& request,
                            v1::ClaimAnswers* response);
  absl::Status MapChunks(const v1::MapChunks& request, v1::Chunks* response,
                         std::vector<UniqueFd>* descriptors);
  absl::Status Lookup(const v1::Lookup& request, v1::Found* response, Batch* batch);
  void LookupOne(const v1::Lookup& request, size_t i, v1::Found* response, Batch* batch);
  absl::Status Lease(std::string_view key, bool touch, std::vector<uint64_t>* taken,
                     v1::FoundItem* item);
  absl::Status Release(const v1::Release& request);
  absl::Status Remove(const v1::Remove& request, v1::Removed* response, Batch* batch);
  absl::Status GrowSlots(const v1::GrowSlots& request, v1::SlotsGranted* response);
  void Drop(uint64_t lease);
  store::ObjectId Id(std::string_view key) const { return {key, fingerprint_.hash()}; }

  Host& host_;
  const uint32_t user_;
  const std::shared_ptr<store::Namespace> namespace_;
  const Fingerprint fingerprint_;
  const std::shared_ptr<store::ClientPage> page_;

  Flights flights_;
  Puts puts_;
  Loans loans_;
  std::map<uint64_t, store::ReadLease> leases_;
  uint64_t next_lease_ = 1;
  uint64_t leased_bytes_ = 0;
  uint64_t chunks_sent_ = 0;
  uint64_t grown_slots_ = 0;
  int over_budget_score_ = 0;
  std::chrono::steady_clock::time_point last_drain_;
};

}  // namespace infercache::local
