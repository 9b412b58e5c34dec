// Bounds the bytes that responses on their way hold, of values and of what describes them, and ends
// connections that never take them.
//
// Bytes handed to gRPC stay alive until the client's side has accepted them. A client that stops
// reading keeps them: neither its deadline nor a cancelled call frees what a finished response
// still has to send. So there is a bound, in all and per connection, and a time after which the
// connection is shut down.

#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/rpc/connection.h"

namespace infercache::rpc {

// Thread-safe. Outlives its holds.
class PinnedBudget {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  struct Limits {
    uint64_t total_bytes = 0;
    uint64_t connection_bytes = 0;
    // A response may take so long for each started `timeout_bytes` it has.
    std::chrono::milliseconds timeout{10'000};
    uint64_t timeout_bytes = uint64_t{64} << 20;
  };

  // What one response holds. Released piece by piece, the rest on destruction; on any thread.
  class Hold {
   public:
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    void Release(uint64_t bytes);
    // Of a response that goes out in pieces: the next one must be taken within the timeout.
    void ExpectProgress(TimePoint now);

   private:
    friend class PinnedBudget;
    Hold(PinnedBudget& budget, std::shared_ptr<Connection> connection)
        : budget_(budget), connection_(std::move(connection)) {}

    PinnedBudget& budget_;
    const std::shared_ptr<Connection> connection_;
    // Guarded by the budget's mutex.
    uint64_t bytes_ = 0;
    TimePoint deadline_;
    TimePoint end_;  // of the whole response; deadline_ is never later
    std::list<Hold*>::iterator position_;
  };

  explicit PinnedBudget(const Limits& limits) : limits_(limits) {}

  const Limits& limits() const { return limits_; }
  // What a stream of `size`, object and header, is charged. Only a chunk of it is on its way at a
  // time, so it is charged at most half of a connection's bound, although the whole object stays
  // pinned: a large object can always be read, and does not keep others from being read beside it.
  uint64_t StreamCharge(uint64_t size) const;
  // Holds `bytes` of a response of `response_bytes`, which sets its time. RESOURCE_EXHAUSTED names
  // the bound that stands in the way.
  absl::StatusOr<std::shared_ptr<Hold>> Acquire(std::shared_ptr<Connection> connection,
                                                uint64_t bytes, uint64_t response_bytes,
                                                TimePoint now);
  // Shuts down the connections whose responses are overdue.
  void DisconnectStalled(TimePoint now);
  // Waits until nothing is held. False if `timeout` passed first.
  bool AwaitEmpty(absl::Duration timeout);

  uint64_t held_bytes() const;
  uint64_t stalled_disconnects() const;

 private:
  void ReleaseLocked(Hold& hold, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Limits limits_;
  mutable absl::Mutex mu_;
  uint64_t held_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t stalled_disconnects_ ABSL_GUARDED_BY(mu_) = 0;
  std::list<Hold*> holds_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache::rpc
