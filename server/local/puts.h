// What one session writes: its reservations, from Reserve to Commit, Abort or quarantine.
//
// Not thread-safe. Owns the reservations and keeps their namespace alive; destruction frees what is
// left, so a session whose process may still write takes them out first.

#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/hash.h"
#include "infercache/v1/local.pb.h"
#include "server/local/batch.h"
#include "server/local/flights.h"
#include "server/local/host.h"
#include "server/local/inline_put.h"
#include "server/local/quarantine.h"
#include "server/store/chain.h"
#include "server/store/namespace.h"

namespace infercache::local {

using PutAccess = v1::Welcome::PutAccess;

class Puts {
 public:
  // `page` and `flights` are the session's.
  Puts(Host& host, std::shared_ptr<store::Namespace> ns, const Hash128& fingerprint,
       store::ClientPage& page, PutAccess access, Flights& flights);
  ~Puts();
  Puts(const Puts&) = delete;
  Puts& operator=(const Puts&) = delete;

  // The verbs of local.proto. Errors of a whole batch: PERMISSION_DENIED (the session may not put),
  // UNAVAILABLE (the daemon drains; Reserve and PutInline). REQUIRES: at most kMaxItemsPerFrame
  // items. `batch` is a new one, or the request's own that is not done.
  absl::Status Reserve(const v1::Reserve& request, v1::Reserved* response, Batch* batch);
  absl::Status Commit(const v1::Commit& request, v1::PutResults* response, Batch* batch);
  absl::Status Abort(const v1::Abort& request);
  void Write(const v1::Write& request);
  absl::Status PutInline(std::span<const InlinePutView> items, v1::PutResults* response);
  // The same for a request that was parsed as a whole.
  absl::Status PutInline(const v1::PutInline& request, v1::PutResults* response);

  PutAccess access() const { return access_; }

  // Quarantines what was reserved before `now` - the timeout. A Commit of it will be answered with
  // DEADLINE_EXCEEDED. Returns how many.
  uint64_t Expire(std::chrono::steady_clock::time_point now);
  // All that is left, in quarantine.
  std::vector<Quarantined> TakeAll();

 private:
  struct Reservation {
    store::WriteLease lease;
    store::ChainLink link;  // how it lies in a batch
    std::chrono::steady_clock::time_point deadline;
    uint64_t claim = 0;                     // that it fulfils; 0 = none
    uint64_t written = 0;                   // bytes that came by Write: the first ones
    absl::Status wrong = absl::OkStatus();  // with a Write
  };

  absl::Status CheckMayPut() const;
  // RESOURCE_EXHAUSTED: with one reservation of `bytes` more the session would hold too much.
  absl::Status CheckShare(uint64_t bytes) const;
  // Frees an expired reservation. False if there is none of this id.
  bool FreeExpired(uint64_t id);
  void ReserveItem(const v1::ReserveItem& item, v1::ReservedItem* out);
  absl::StatusOr<std::optional<store::WriteLease>> ReserveBytes(const v1::ReserveItem& item,
                                                                const store::UseContext& use);
  absl::StatusOr<store::CommitOutcome> CommitOne(uint64_t id, const store::UseContext& use);
  absl::StatusOr<store::CommitOutcome> PutOne(const v1::ReserveItem& object, std::string_view value,
                                              const store::UseContext& use);
  Hash128 ParentOf(const v1::ReserveItem& object) const;
  // The uses that the client has told of come before what it stores behind them: as many as a put
  // can wait for.
  void TakeTouches();
  // In a GPU's memory only the client itself can.
  absl::Status CheckDaemonCanWrite() const;
  absl::Status CheckWritten(const Reservation& reservation) const;

  Host& host_;
  const std::shared_ptr<store::Namespace> namespace_;
  store::ClientPage& page_;
  const Hash128 fingerprint_;
  const PutAccess access_;
  Flights& flights_;

  uint64_t next_id_ = 1;
  // Ids only grow and the timeout is one for all: the order of ids is that of deadlines.
  std::map<uint64_t, Reservation> open_;
  std::map<uint64_t, Quarantined> expired_;
  // Of both, whose number has a limit for the same reason: one session may reserve its share of the
  // namespace and no more, or a client that never commits would keep all others from putting.
  uint64_t held_bytes_ = 0;
  v1::ReserveItem scratch_;  // keeps its memory from one PutInline to the next
};

}  // namespace infercache::local
