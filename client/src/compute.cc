#include "client/src/compute.h"

#include <deque>
#include <memory>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/src/daemon_status.h"
#include "client/src/get_sink.h"

namespace infercache {
namespace {

// What is known of the keys, on its way from the transport's threads to the one that computes.
class Inbox {
 public:
  // Drops what comes after Close, and with it gives claims up.
  void Push(FlightBatch::Pieces pieces) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (closed_) return;
    for (GetOrReservePiece& piece : pieces) pieces_.push_back(std::move(piece));
  }
  GetOrReservePiece Pop() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(
        +[](std::deque<GetOrReservePiece>* pieces) { return !pieces->empty(); }, &pieces_));
    GetOrReservePiece piece = std::move(pieces_.front());
    pieces_.pop_front();
    return piece;
  }
  void Close() ABSL_LOCKS_EXCLUDED(mu_) {
    std::deque<GetOrReservePiece> dropped;
    absl::MutexLock lock(&mu_);
    closed_ = true;
    dropped.swap(pieces_);
  }

 private:
  absl::Mutex mu_;
  std::deque<GetOrReservePiece> pieces_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

// One key's value, from where it is computed to where it is stored.
class Slot final : public ComputeSlot {
 public:
  // `claim` may be null. Without `stores`, what is computed stays here. Its parent, unless the
  // computation names another, is the key before it.
  Slot(Client& client, const ComputeHooks& hooks, std::span<const std::string_view> keys,
       size_t index, Claim* claim, bool stores, const CallOptions& call)
      : client_(client),
        hooks_(hooks),
        key_(keys[index]),
        parent_(index == 0 ? std::string_view() : keys[index - 1]),
        index_(index),
        claim_(claim),
        stores_(stores),
        call_(call) {}

  size_t index() const override { return index_; }
  std::string_view key() const override { return key_; }

  absl::StatusOr<std::span<std::byte>> Allocate(uint64_t size_bytes, const ObjectInfo& info,
                                                std::vector<PartSpec> parts) override {
    if (size_bytes == 0 || size_bytes_ != 0) {
      return absl::InvalidArgumentError(size_bytes == 0 ? "an object has at least one byte"
                                                        : "room was allocated already");
    }
    size_bytes_ = size_bytes;
    info_ = info;
    if (info_.parent_key.empty()) info_.parent_key = parent_;
    parts_ = std::move(parts);
    if (stores_ && hooks_.in_place && ReserveInPlace()) return reservation_.bytes();
    memory_.reset(new (std::nothrow) std::byte[size_bytes]);
    if (memory_ == nullptr) return NoMemoryFor(size_bytes);
    return std::span(memory_.get(), size_bytes);
  }

  // After the computation returned OK. Without an object: the bytes are lost, and `stored` says
  // why.
  ComputeResult Finish() {
    ComputeResult result = {.computed = true};
    if (reservation_) {
      result.stored = client_.Commit(std::span(&reservation_, 1), call_).front().status;
      if (!result.stored.ok()) return result;
      GetResult own = hooks_.get_own(key_, call_);
      if (!own.hit()) result.stored = absl::NotFoundError("it was stored, and is gone again");
      result.object = std::move(own.object);
      return result;
    }
    if (memory_ == nullptr) {
      result.status = absl::FailedPreconditionError(
          absl::StrCat("the computation of key ", index_, " allocated no value"));
      return result;
    }
    result.stored = std::move(stored_);
    if (stores_ && !hooks_.in_place) result.stored = Put();
    if (parts_.empty()) parts_.push_back({.size_bytes = size_bytes_});
    info_.parent_key.clear();
    result.object.emplace(
        HeapObject(std::move(memory_), size_bytes_, std::move(parts_), std::move(info_)));
    return result;
  }

  // What kept the value from going to the daemon's memory.
  void NotStored(absl::Status why) { stored_ = std::move(why); }

 private:
  bool ReserveInPlace() {
    const ReserveItem item = {
        .key = key_, .size_bytes = size_bytes_, .info = info_, .parts = parts_, .claim = claim_};
    ReserveResult result = std::move(client_.Reserve(std::span(&item, 1), call_).front());
    stored_ = std::move(result.status);
    if (!result.reservation.has_value()) return false;
    reservation_ = *std::move(result.reservation);
    return true;
  }

  absl::Status Put() {
    const PutItem item = {.key = key_,
                          .info = info_,
                          .parts = parts_,
                          .value = {std::span<const std::byte>(memory_.get(), size_bytes_)}};
    absl::Status status = client_.Put(item, call_).status;
    if (status.ok() && claim_ != nullptr) claim_->Fulfilled();
    return status;
  }

  Client& client_;
  const ComputeHooks& hooks_;
  const std::string_view key_;
  const std::string_view parent_;
  const size_t index_;
  Claim* const claim_;
  const bool stores_;
  const CallOptions& call_;

  uint64_t size_bytes_ = 0;  // 0 = nothing is allocated
  ObjectInfo info_;
  std::vector<PartSpec> parts_;
  // One of them is where the value is.
  Reservation reservation_;
  std::unique_ptr<std::byte[]> memory_;
  absl::Status stored_;  // why it is not in the daemon's memory
};

class Loop {
 public:
  Loop(Client& client, const ComputeHooks& hooks, std::span<const std::string_view> keys,
       const ComputeFunction& compute, const CallOptions& call)
      : client_(client), hooks_(hooks), keys_(keys), compute_(compute), call_(call) {}
  // Also when a computation throws: what is won from here on passes on.
  ~Loop() { inbox_->Close(); }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  std::vector<ComputeResult> Run() {
    std::vector<ComputeResult> results(keys_.size());
    hooks_.start([inbox = inbox_](FlightBatch::Pieces pieces, bool, Reached) {
      inbox->Push(std::move(pieces));
    });
    // What is known already is worked off before anything is waited for.
    for (size_t left = keys_.size(); left > 0; --left) {
      GetOrReservePiece piece = inbox_->Pop();
      results[piece.index] = Settle(piece.index, std::move(piece.result));
    }
    return results;
  }

 private:
  ComputeResult Settle(size_t index, GetOrReserveResult known) {
    if (known.object.has_value()) return {.object = std::move(known.object)};
    Claim* const claim = known.claim.has_value() ? &*known.claim : nullptr;
    // That nobody said in time who computes a key says little; a store that takes too long says
    // more.
    if (!absl::IsDeadlineExceeded(known.status)) NoteTrouble(known.status);
    ComputeResult result = Compute(index, claim, !daemon_is_lost_, known.status);
    NoteTrouble(result.stored);
    if (!result.status.ok() || result.object.has_value()) return result;
    // The bytes were the daemon's. Once more, for ourselves.
    const absl::Status why = std::move(result.stored);
    return Compute(index, nullptr, /*stores=*/false, why);
  }

  ComputeResult Compute(size_t index, Claim* claim, bool stores, const absl::Status& why_not) {
    Slot slot(client_, hooks_, keys_, index, claim, stores, call_);
    if (!stores) slot.NotStored(why_not.ok() ? lost_ : why_not);
    if (absl::Status status = compute_(slot); !status.ok()) {
      return {.status = std::move(status), .computed = true};
    }
    return slot.Finish();
  }

  // A daemon that is gone or silent is not asked again for every key of the batch.
  void NoteTrouble(const absl::Status& status) {
    if (!IsUnreachable(status) || daemon_is_lost_) return;
    daemon_is_lost_ = true;
    lost_ = status;
  }

  Client& client_;
  const ComputeHooks& hooks_;
  const std::span<const std::string_view> keys_;
  const ComputeFunction& compute_;
  const CallOptions& call_;
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  bool daemon_is_lost_ = false;
  absl::Status lost_;
};

}  // namespace

std::vector<ComputeResult> ComputeMissing(Client& client, const ComputeHooks& hooks,
                                          std::span<const std::string_view> keys,
                                          const ComputeFunction& compute,
                                          const CallOptions& store) {
  return Loop(client, hooks, keys, compute, store).Run();
}

}  // namespace infercache
