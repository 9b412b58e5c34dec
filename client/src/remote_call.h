// Starts gRPC calls whose messages are raw bytes, and knows all that are under way.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/src/channel.h"
#include "client/src/daemon_status.h"
#include "client/src/wire_cursor.h"
#include "google/protobuf/message_lite.h"
#include "grpcpp/alarm.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"

namespace infercache {

// A received message as its pieces lie in gRPC's buffers, which it keeps alive. Neither copied nor
// moved: cursors point into it.
class ReceivedMessage {
 public:
  explicit ReceivedMessage(const grpc::ByteBuffer& buffer);
  ReceivedMessage(const ReceivedMessage&) = delete;
  ReceivedMessage& operator=(const ReceivedMessage&) = delete;

  WireCursor cursor() const { return WireCursor(pieces_); }

 private:
  std::vector<grpc::Slice> slices_;
  std::vector<WireCursor::Piece> pieces_;
};

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message);
// INTERNAL if the bytes are no such message.
absl::Status Parse(grpc::ByteBuffer& buffer, google::protobuf::MessageLite* message);

class RemoteCalls;

// One gRPC call, from its start until gRPC lets go of it.
//
// Its outcome is delivered by the deadline, whatever gRPC does: on a connection that stopped moving
// gRPC reports a call, cancelled or not, only when the write under way ends, which TCP's timeout
// decides. What is delivered early is abandoned: gRPC finishes it later, by itself, on memory that
// the call owns. Thread-safe.
class RemoteCall : public std::enable_shared_from_this<RemoteCall> {
 public:
  virtual ~RemoteCall() = default;
  RemoteCall(const RemoteCall&) = delete;
  RemoteCall& operator=(const RemoteCall&) = delete;

  // Delivers `status`, unless something was delivered, and cancels the call.
  void GiveUp(const absl::Status& status);

 protected:
  RemoteCall(RemoteCalls& calls, absl::Time deadline);

  // Before the call is started. False if there is nothing to start: it is over already.
  bool Begin();
  // When gRPC is done with the call. True if its outcome is still to be delivered, by the caller.
  bool End() ABSL_LOCKS_EXCLUDED(mu_);
  // Hands the outcome to whoever waits. Called at most once, without `mu_`, not after End().
  virtual void Deliver(const absl::Status& status) = 0;

  grpc::ClientContext& context() { return context_; }
  grpc::GenericStub& stub() { return *stub_; }

  // Held while the caller's memory is read or written: not after the delivery.
  absl::Mutex mu_;
  bool over_ ABSL_GUARDED_BY(mu_) = false;

 private:
  bool Finish() ABSL_LOCKS_EXCLUDED(mu_);

  RemoteCalls& calls_;  // not after the delivery
  const absl::Time deadline_;
  const std::shared_ptr<grpc::GenericStub> stub_;
  grpc::ClientContext context_;
  grpc::Alarm alarm_;
};

// Streams of one direction are, on the wire, streams of two.
using StreamReactor = grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

// All calls of one transport. Thread-safe. The destructor gives up every call and waits until all
// operations are over.
class RemoteCalls {
 public:
  // Held by whatever makes calls, until its last outcome was delivered.
  class Operation {
   public:
    explicit Operation(RemoteCalls& calls);
    ~Operation();
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;

   private:
    RemoteCalls& calls_;
  };

  using UnaryDone = absl::AnyInvocable<void(absl::Status status, grpc::ByteBuffer& response)>;

  explicit RemoteCalls(RemoteChannel channel);
  ~RemoteCalls();

  // REQUIRES: the caller's Operation lives until `done` is called. `done` may be called before this
  // returns. OK comes with a response that is valid.
  void Unary(const char* method, grpc::ByteBuffer request, absl::Time deadline, bool wait_for_ready,
             UnaryDone done);

  // Calls `then` after `delay`. REQUIRES: as Unary().
  void After(absl::Duration delay, absl::AnyInvocable<void()> then);

 private:
  friend class RemoteCall;

  // False if the destructor has begun.
  bool Add(std::shared_ptr<RemoteCall> call);
  void Remove(RemoteCall* call);

  // Constant after construction. The stub has its own synchronization, and outlives this with calls
  // that were abandoned.
  const RemoteChannel channel_;
  const std::shared_ptr<grpc::GenericStub> stub_;

  absl::Mutex mu_;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  size_t operations_ ABSL_GUARDED_BY(mu_) = 0;
  absl::flat_hash_set<std::shared_ptr<RemoteCall>> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace infercache
