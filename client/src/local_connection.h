// One connection of the same-host lane: requests out, answers in, each to whoever asked.
//
// A thread that waits for its answer reads the socket itself, for all who wait, as long as nobody
// else does; the I/O thread reads while only asynchronous requests are under way. So a round trip
// costs two switches of threads and not four.
//
// Thread-safe. Owns the socket, which closes with the connection: to the daemon that is the end of
// the session and of its pins, so whoever holds a view of the session holds its connection.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "client/src/fork_guard.h"
#include "client/src/io_thread.h"
#include "client/src/transport.h"
#include "common/frame_channel.h"
#include "common/mutex.h"
#include "common/unique_fd.h"
#include "infercache/v1/local.pb.h"

namespace infercache {

using LocalDeadline = std::chrono::steady_clock::time_point;

// What came of a request.
struct LocalAnswer {
  // The daemon's refusal, or what kept its answer from coming: UNAVAILABLE, DEADLINE_EXCEEDED,
  // CANCELLED; INTERNAL for an answer that makes no sense.
  absl::Status status = {};
  Reached reached = Reached::kYes;
  bool sent = true;                 // false: the daemon never hears of the request
  v1::LocalResponse response = {};  // with the body that the request calls for, if status is OK
  std::vector<UniqueFd> descriptors = {};
};

// Hears what becomes of a GetOrReserve: its answer, events, or what keeps them from coming. Called
// without locks, on any thread, several at once and in any order. A status that is not OK is about
// every key of which nothing was heard before; it may come more than once.
class FlightListener {
 public:
  virtual ~FlightListener() = default;
  // `answer` has a body of ClaimAnswers, or one of ClaimEvents of this request.
  virtual void OnNews(LocalAnswer answer) = 0;
};

// Hears what becomes of what a session lends and has borrowed. Called without locks, on any thread,
// several at once and in any order.
class LendingListener {
 public:
  virtual ~LendingListener() = default;
  virtual void OnLentEvents(const v1::LentEvents& events) = 0;
  // Nothing more is heard. May come more than once.
  virtual void OnSessionOver(const absl::Status& why) = 0;
};

class LocalConnection : public std::enable_shared_from_this<LocalConnection> {
 public:
  using OnAnswer = absl::AnyInvocable<void(LocalAnswer answer)>;

  // `socket` is connected and non-blocking; its peer calls itself `name`. `io` watches it for
  // `charge`, which hands events on, until Detach.
  LocalConnection(UniqueFd socket, std::string name, std::shared_ptr<IoThread> io,
                  IoThread::Charge* charge);
  ~LocalConnection();
  LocalConnection(const LocalConnection&) = delete;
  LocalConnection& operator=(const LocalConnection&) = delete;

  // Sends, with a descriptor beside it if there is one, and waits for the answer. Sets the
  // request's id.
  LocalAnswer Call(v1::LocalRequest& request, LocalDeadline deadline, UniqueFd descriptor = {})
      ABSL_LOCKS_EXCLUDED(mu_);
  // Sends. `on_answer` is called exactly once, without locks, on any thread, possibly at once.
  void Submit(v1::LocalRequest& request, LocalDeadline deadline, OnAnswer on_answer)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Sends a GetOrReserve. By the deadline the listener has heard of every key, or a status.
  void SubmitFlight(v1::LocalRequest& request, LocalDeadline deadline,
                    std::shared_ptr<FlightListener> listener) ABSL_LOCKS_EXCLUDED(mu_);
  // From here on, as long as it lives. Called at most once.
  void ListenToLending(std::weak_ptr<LendingListener> listener) ABSL_LOCKS_EXCLUDED(mu_);
  // Sends what needs no answer, or one that nobody wants. Works until the connection breaks. False:
  // it is not sent, because the connection is broken or, unless it gives something back, because
  // too much waits to be sent.
  bool Tell(v1::LocalRequest& request) ABSL_LOCKS_EXCLUDED(mu_);

  // From here on no answer is waited for: everything under way fails with `status`, and so does
  // what is asked later. The socket stays open, for the pins. Called at most once.
  void Detach(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);
  // After Detach: waits for answers to Reserve that nobody wants any more, and gives back what they
  // bring. Without them it returns at once.
  void AwaitReserved(LocalDeadline deadline) ABSL_LOCKS_EXCLUDED(mu_);
  // As Detach, and the session is over.
  void Break(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  // On the I/O thread.
  void OnEvents(uint32_t events) ABSL_LOCKS_EXCLUDED(mu_);
  // Fails what is overdue. Returns when to come again.
  LocalDeadline OnTimer(LocalDeadline now) ABSL_LOCKS_EXCLUDED(mu_);

  int fd() const { return socket_.get(); }
  // The daemon is gone, or made no sense. One relaxed load, for the hit path.
  bool broken() const { return broken_.load(std::memory_order_relaxed); }
  // The daemon said Goodbye: it takes no new work through this session.
  bool retired() const { return retired_.load(std::memory_order_relaxed); }
  std::string goodbye_reason() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // Who waits in Call.
  struct Waiter {
    bool done = false;
    LocalAnswer answer;
  };
  struct Pending {
    v1::LocalResponse::BodyCase expected;
    LocalDeadline deadline;
    Waiter* waiter = nullptr;  // null, and no on_answer: given up, or nobody wanted it
    OnAnswer on_answer = nullptr;
  };
  using Ready = std::vector<std::pair<OnAnswer, LocalAnswer>>;
  // A GetOrReserve of which something is still to be heard.
  struct Flight {
    std::shared_ptr<FlightListener> listener;
    LocalDeadline deadline;
    int left;  // keys
  };

  // Takes `pending` if it is OK.
  absl::Status Send(v1::LocalRequest& request, Pending& pending, UniqueFd descriptor = {})
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool TellLocked(v1::LocalRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Await(uint64_t id, Waiter& waiter, LocalDeadline deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Reads what is there. Returns what the caller is to Run once it has let others read: that may
  // copy gigabytes. REQUIRES: reading_ is the caller's.
  Ready ReadAnswers() ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status OnFrame(std::string_view body, std::vector<UniqueFd> descriptors, Ready* ready)
      ABSL_LOCKS_EXCLUDED(mu_);
  void Deliver(Pending pending, LocalAnswer answer, Ready* ready)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void GiveBack(const v1::LocalResponse& response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // --- local_connection_flights.cc ---
  static OnAnswer Tells(std::shared_ptr<FlightListener> listener);
  // The answer to a GetOrReserve: what of it is still to be waited for.
  absl::Status OnClaimAnswers(uint64_t id, const LocalAnswer& answer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status OnClaimEvents(v1::ClaimEvents events, Ready* ready)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndFlight(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Nothing is heard any more; what is won later is given up.
  void FailFlights(const absl::Status& status, Reached reached, Ready* ready)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TellNobodyWaits(const std::vector<uint64_t>& requests) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndOverdueFlights(LocalDeadline now, Ready* ready) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether something is to be read that no thread waits for here.
  bool ReadsUnasked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return !deadlines_.empty() || !flights_.empty() || listens_to_lending_;
  }
  // --- local_connection_lending.cc ---
  void OnLentEvents(v1::LentEvents events, Ready* ready) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndLending(const absl::Status& status, Ready* ready) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // What an answer brings for which nobody waits any more. False: it is not about lending.
  bool ReturnLent(const v1::LocalResponse& response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  void FailAll(const absl::Status& status, Reached reached, Ready* ready)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Expects(v1::LocalResponse::BodyCase body) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SetWatch(bool readable, bool writable) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Until something can be read, or `deadline`.
  static void AwaitReadable(int socket, LocalDeadline deadline);
  static void Run(Ready ready);

  // Constant after construction.
  const ForkGuard guard_;
  const UniqueFd socket_;
  const std::string name_;

  // Synchronize themselves.
  alignas(64) std::atomic<bool> broken_{false};
  std::atomic<bool> retired_{false};

  alignas(64) mutable Mutex mu_;
  CondVar changed_;
  std::shared_ptr<IoThread> io_ ABSL_GUARDED_BY(mu_);  // null once detached
  absl::Status over_ ABSL_GUARDED_BY(mu_);             // not OK: nothing is asked any more
  std::string goodbye_reason_ ABSL_GUARDED_BY(mu_);
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<uint64_t, Pending> pending_ ABSL_GUARDED_BY(mu_);
  // Of asynchronous requests, by deadline.
  std::set<std::pair<LocalDeadline, uint64_t>> deadlines_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, Flight> flights_ ABSL_GUARDED_BY(mu_);  // by request
  std::set<std::pair<LocalDeadline, uint64_t>> flight_deadlines_ ABSL_GUARDED_BY(mu_);
  std::weak_ptr<LendingListener> lending_ ABSL_GUARDED_BY(mu_);
  bool listens_to_lending_ ABSL_GUARDED_BY(mu_) = false;
  FrameWriter writer_ ABSL_GUARDED_BY(mu_);
  std::string encoded_ ABSL_GUARDED_BY(mu_);  // keeps its memory
  int waiters_ ABSL_GUARDED_BY(mu_) = 0;      // threads on changed_
  bool watch_readable_ ABSL_GUARDED_BY(mu_) = true;
  bool watch_writable_ ABSL_GUARDED_BY(mu_) = false;
  // When the I/O thread looks again for what comes unasked, after readers took turns.
  LocalDeadline watch_again_ ABSL_GUARDED_BY(mu_) = LocalDeadline::max();

  // Of whoever reads.
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  FrameReader reader_{kMaxFrameDescriptors};
};

}  // namespace infercache
