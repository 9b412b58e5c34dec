// Keeps one client connected: opens its session, opens the next one when the daemon went away, and
// says meanwhile why there is none.
//
// Opening is the I/O thread's work. The first attempt is waited for, within deadlines; after that a
// daemon that is not there is said so at once. Thread-safe.

#pragma once

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/src/io_thread.h"
#include "client/src/local_connection.h"
#include "client/src/local_lanes.h"
#include "client/src/local_session.h"
#include "client/src/transport.h"
#include "common/hash.h"
#include "common/mutex.h"
#include "infercache/v1/types.pb.h"

namespace infercache {

class LocalLink final : public IoThread::Charge {
 public:
  struct Options {
    std::string path;  // of the daemon's socket
    v1::Scope scope;
    Hash128 fingerprint;      // of the scope's entries
    std::string device = {};  // the UUID of the GPU whose memory it is about; empty = host memory
  };
  // A session that takes new work, or why there is none.
  struct Opened {
    std::shared_ptr<LocalSession> session;  // null: `status` says why
    absl::Status status;
    Reached reached = Reached::kNo;
  };
  using OnOpened = absl::AnyInvocable<void(Opened opened)>;

  // Starts to connect. Hits go through `lanes`, which outlives the link. RESOURCE_EXHAUSTED: out of
  // descriptors or threads.
  static absl::StatusOr<std::unique_ptr<LocalLink>> Start(Options options, LocalLanes& lanes);
  // Whatever is under way fails with CANCELLED, before this returns. Views keep what they need.
  // Waits up to a second for room that is being reserved, to give it back.
  ~LocalLink() override;

  // Without `wait_for_daemon`, waits for the first attempt only. DEADLINE_EXCEEDED, or what the
  // last attempt ended with.
  Opened Await(bool wait_for_daemon, LocalDeadline deadline) ABSL_LOCKS_EXCLUDED(mu_);
  // The same; `on_opened` is called exactly once, on any thread, possibly at once.
  void WhenOpen(bool wait_for_daemon, LocalDeadline deadline, OnOpened on_opened)
      ABSL_LOCKS_EXCLUDED(mu_);

  // IoThread::Charge.
  void OnEvents(int fd, uint32_t events) override;
  IoThread::Clock::time_point OnTimer(IoThread::Clock::time_point now) override
      ABSL_LOCKS_EXCLUDED(mu_);
  bool OnIdle() override;

 private:
  struct Attempt {
    std::shared_ptr<LocalConnection> connection;
    v1::Welcome welcome;
    LocalSession::Segments segments;
    LocalDeadline deadline;
    bool over = false;
    absl::Status status;
  };
  struct Waiting {
    bool for_daemon;
    LocalDeadline deadline;
    OnOpened on_opened;
  };

  LocalLink(Options options, LocalLanes& lanes, std::shared_ptr<IoThread> io);

  // On the I/O thread.
  void BeginAttempt(LocalDeadline now);
  void SayHello();
  void TakeWelcome(LocalAnswer answer);
  void AskForChunks();
  void TakeChunks(LocalAnswer answer);
  size_t chunks_taken() const {
    return attempt_->segments.chunks.size() + attempt_->segments.device_chunks.size();
  }
  void FinishAttempt(absl::Status status);
  void EndAttempt(LocalDeadline now) ABSL_LOCKS_EXCLUDED(mu_);
  void Retry(LocalDeadline now);
  // The session that is open takes no new work.
  void Retire(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);
  // Its pins are worth nothing.
  void DropSession(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);
  LocalDeadline AnswerWaiting(LocalDeadline now) ABSL_LOCKS_EXCLUDED(mu_);

  // Whether somebody who asks now has an answer.
  bool Knows(bool wait_for_daemon) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return open_ != nullptr || closed_ || (first_attempt_over_ && !wait_for_daemon);
  }
  Opened Known() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after construction. `lanes_` synchronizes itself.
  const Options options_;
  LocalLanes& lanes_;
  const std::shared_ptr<IoThread> io_;
  const std::string name_;

  // The I/O thread's.
  std::unique_ptr<Attempt> attempt_;
  std::shared_ptr<LocalSession> current_;  // what the lanes have: open, or retired
  LocalDeadline next_attempt_ = LocalDeadline::min();
  LocalDeadline opened_at_ = LocalDeadline::min();
  std::chrono::milliseconds back_off_;
  bool retired_ = false;

  Mutex mu_;
  CondVar changed_;
  std::shared_ptr<LocalSession> open_ ABSL_GUARDED_BY(mu_);
  absl::Status why_ ABSL_GUARDED_BY(mu_);  // nothing is open
  Reached reached_ ABSL_GUARDED_BY(mu_) = Reached::kNo;
  bool first_attempt_over_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::list<Waiting> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache
