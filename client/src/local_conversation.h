// An operation as a conversation with the daemon: one request after the other, each made of the
// answer to the one before. Who waits for the answers, a thread or a callback, is not its business.
//
//   Begin ──► Next ──► Take ──► Next ──► ... ──► Next: false
//      (or Fail)
//
// Not thread-safe: one caller at a time.

#pragma once

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "client/src/local_connection.h"
#include "client/src/local_link.h"
#include "client/src/local_session.h"
#include "client/src/transport.h"
#include "infercache/v1/local.pb.h"

namespace infercache {

class Conversation {
 public:
  virtual ~Conversation() = default;

  // Whether it can begin without a session that takes new work.
  virtual bool NeedsSession() const { return true; }
  // `session` is open, or null if none is needed.
  void Begin(std::shared_ptr<LocalSession> session) { session_ = std::move(session); }
  // Instead of Begin: there is no session.
  void FailToBegin(const absl::Status& status, Reached reached) {
    reached_ = reached;
    Fail(status);
  }

  // What to ask connection() next. False: it is over.
  virtual bool Next(v1::LocalRequest* request) = 0;
  void TakeAnswer(LocalAnswer answer) {
    reached_ = answer.reached;
    Take(std::move(answer));
  }

  // Hands the result to whoever gave the conversation away. Called once, when it is over, if
  // nobody waits for it.
  virtual void Deliver() = 0;

  virtual LocalConnection& connection() const { return session_->connection(); }
  Reached reached() const { return reached_; }

 protected:
  // What is not answered yet fails.
  virtual void Fail(const absl::Status& status) = 0;
  virtual void Take(LocalAnswer answer) = 0;

  std::shared_ptr<LocalSession> session_;
  Reached reached_ = Reached::kNotAsked;
};

// Waits for all of it.
void HoldNow(LocalLink& link, LocalDeadline deadline, bool wait_for_daemon,
             Conversation& conversation);
// Returns at once; ends with Deliver, on any thread, possibly before this returns. The link waits
// for it in its destructor.
void Hold(LocalLink& link, LocalDeadline deadline, bool wait_for_daemon,
          std::unique_ptr<Conversation> conversation);

}  // namespace infercache
