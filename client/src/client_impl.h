// What is behind a Client: deadlines, the breaker and the completion queue, over either transport.

#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/src/circuit_breaker.h"
#include "client/src/completion_queue.h"
#include "client/src/flight_batch.h"
#include "client/src/fork_guard.h"
#include "client/src/local_transport.h"
#include "client/src/results.h"
#include "client/src/transport.h"
#include "infercache/client.h"

namespace infercache {

template <typename Result>
using Deliver = absl::AnyInvocable<void(Result result)>;

// Every request goes through Run() or Now(): deadline, empty batch and breaker are decided there.
class Client::Impl {
 public:
  // `local` is `transport` if that is the local lane, else null.
  Impl(const ClientOptions& options, std::string endpoint,
       std::unique_ptr<CompletionQueue> completions, std::unique_ptr<Transport> transport,
       LocalTransport* local);
  // In a forked child, there is nothing that may be destroyed: leak it.
  ~Impl() = default;

  // Made by a parent of this process.
  bool inherited() const { return guard_.inherited(); }
  Lane lane() const { return local_ != nullptr ? Lane::kLocal : Lane::kRemote; }
  // The local lane, if that is what there is and it is this process's own.
  LocalTransport* local() const { return inherited() ? nullptr : local_; }
  // In a forked child a queue of its own: the parent's descriptor is the parent's.
  CompletionQueue& completions();
  absl::Duration deadline() const { return deadline_; }
  // What a device of this client connects with, if it is one of the local lane.
  LocalTransport::Options lane_options;
  RequestId NextId() { return next_id_.fetch_add(1, std::memory_order_relaxed); }

  void Get(std::span<const std::string_view> keys, const CallOptions& call,
           Deliver<std::vector<GetResult>> deliver);
  void GetInto(std::span<const std::string_view> keys,
               std::span<const std::span<std::byte>> destinations, const CallOptions& call,
               Deliver<std::vector<GetIntoResult>> deliver);
  void Put(std::span<const PutItem> items, const CallOptions& call,
           Deliver<std::vector<PutResult>> deliver);
  void Reserve(std::span<const ReserveItem> items, const CallOptions& call,
               Deliver<std::vector<ReserveResult>> deliver);
  void Commit(std::span<Reservation> reservations, const CallOptions& call,
              Deliver<std::vector<PutResult>> deliver);
  // `on_pieces` as in FlightBatch.
  void GetOrReserve(std::span<const std::string_view> keys, const ComputeOptions& options,
                    FlightBatch::OnPieces on_pieces);
  void Match(std::span<const std::string_view> keys, const CallOptions& call,
             Deliver<MatchResult> deliver);
  void Keys(KeysVerb verb, std::span<const std::string_view> keys, const CallOptions& call,
            Deliver<KeysResult> deliver);
  void List(std::string_view key_prefix, uint32_t page_size, std::string_view page_token,
            const CallOptions& call, Deliver<ListResult> deliver);
  // Asks the daemon even if the breaker is open: that is the question.
  void Ping(const CallOptions& call, Deliver<absl::Status> deliver);

  // The result of a call that its caller waits for: of ask(local, deadline, &reached) in this
  // thread on the local lane, else of submit(deliver).
  template <typename Result, typename Ask, typename Submit>
  Result Now(size_t count, const CallOptions& call, Ask ask, Submit submit,
             bool heed_breaker = true) {
    LocalTransport* const local = this->local();
    if (local == nullptr) return Wait<Result>(std::move(submit));
    if (count == 0) return Result();
    const absl::Duration timeout = call.deadline.value_or(deadline_);
    if (absl::Status status = Check(timeout, heed_breaker); !status.ok()) {
      return Failed<Result>(status, count);
    }
    Reached reached = Reached::kNotAsked;
    Result result = ask(*local, absl::Now() + timeout, &reached);
    Account(reached, timeout);
    return result;
  }

  // Calls submit(deliver) and waits for the result. It comes: the transport keeps the deadline.
  template <typename Result, typename Submit>
  static Result Wait(Submit submit) {
    absl::Notification done;
    std::optional<Result> result;
    submit(Deliver<Result>([&done, &result](Result r) {
      result.emplace(std::move(r));
      done.Notify();
    }));
    done.WaitForNotification();
    return *std::move(result);
  }

 private:
  template <typename Result, typename Start>
  void Run(size_t count, const CallOptions& call, Deliver<Result> deliver, Start start) {
    if (count == 0) return deliver(Result());
    const absl::Duration timeout = call.deadline.value_or(deadline_);
    if (absl::Status status = Check(timeout, /*heed_breaker=*/true); !status.ok()) {
      return deliver(Failed<Result>(status, count));
    }
    start(absl::Now() + timeout, Report<Result>(timeout, std::move(deliver)));
  }

  template <typename Result>
  Done<Result> Report(absl::Duration timeout, Deliver<Result> deliver) {
    return [this, timeout, deliver = std::move(deliver)](Result result, Reached reached) mutable {
      Account(reached, timeout);
      deliver(std::move(result));
    };
  }

  // Why a call is not made at all.
  absl::Status Check(absl::Duration timeout, bool heed_breaker);
  absl::Status Admit();
  void Probe();
  // What a call says about the daemon.
  void Account(Reached reached, absl::Duration timeout);

  // Constant after construction.
  const ForkGuard guard_;
  const absl::Duration deadline_;
  const std::string endpoint_;

  // Have their own synchronization. The transport goes first: its destructor waits for callbacks
  // that use the others.
  std::atomic<RequestId> next_id_{1};
  std::atomic<CompletionQueue*> child_completions_{nullptr};  // never destroyed, nor is the client
  CircuitBreaker breaker_;
  const std::unique_ptr<CompletionQueue> completions_;
  const std::unique_ptr<Transport> transport_;
  LocalTransport* const local_;
};

}  // namespace infercache
