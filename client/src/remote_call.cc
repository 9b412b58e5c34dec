#include "client/src/remote_call.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/src/status_conversion.h"
#include "grpcpp/support/proto_buffer_reader.h"

namespace infercache {
namespace {

// gRPC keeps the same deadline, and its error says more: it gets a head start.
constexpr absl::Duration kGrace = absl::Milliseconds(20);

}  // namespace

ReceivedMessage::ReceivedMessage(const grpc::ByteBuffer& buffer) {
  // Fails only for a buffer without a message, which then has no pieces.
  if (!buffer.Dump(&slices_).ok()) return;
  pieces_.reserve(slices_.size());
  for (const grpc::Slice& slice : slices_) {
    pieces_.push_back(std::as_bytes(std::span(slice.begin(), slice.size())));
  }
}

grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

absl::Status Parse(grpc::ByteBuffer& buffer, google::protobuf::MessageLite* message) {
  grpc::ProtoBufferReader reader(&buffer);
  if (!reader.status().ok() || !message->ParseFromZeroCopyStream(&reader)) {
    return BadAnswer(absl::StrCat("no ", message->GetTypeName()));
  }
  return absl::OkStatus();
}

RemoteCall::RemoteCall(RemoteCalls& calls, absl::Time deadline)
    : calls_(calls), deadline_(deadline), stub_(calls.stub_) {
  calls.channel_.Prepare(context_, deadline);
}

bool RemoteCall::Begin() {
  // The timer before the registration: from there on anybody may end the call, and cancel the
  // timer.
  alarm_.Set(absl::ToChronoTime(deadline_ + kGrace),
             [self = shared_from_this()](bool expired) mutable {
               // Out of the closure, which the timer keeps, and which would keep the timer.
               const std::shared_ptr<RemoteCall> call = std::move(self);
               if (expired) call->GiveUp(absl::DeadlineExceededError("Deadline Exceeded"));
             });
  {
    absl::MutexLock lock(&mu_);
    if (over_) return false;
    if (calls_.Add(shared_from_this())) return true;
  }
  GiveUp(absl::CancelledError("the client is being destroyed"));
  return false;
}

bool RemoteCall::Finish() {
  absl::MutexLock lock(&mu_);
  if (over_) return false;
  over_ = true;
  calls_.Remove(this);
  return true;
}

bool RemoteCall::End() {
  alarm_.Cancel();
  return Finish();
}

void RemoteCall::GiveUp(const absl::Status& status) {
  const std::shared_ptr<RemoteCall> self = shared_from_this();
  if (!Finish()) return;
  alarm_.Cancel();
  context_.TryCancel();
  Deliver(status);
}

namespace {

class UnaryCall final : public RemoteCall {
 public:
  UnaryCall(RemoteCalls& calls, absl::Time deadline, bool wait_for_ready, grpc::ByteBuffer request,
            RemoteCalls::UnaryDone done)
      : RemoteCall(calls, deadline), done_(std::move(done)) {
    request_.Swap(&request);
    context().set_wait_for_ready(wait_for_ready);
  }

  void Start(const char* method) {
    if (!Begin()) return;
    stub().UnaryCall(
        &context(), method, {}, &request_, &response_,
        [self = shared_from_this(), this](const grpc::Status& status) {
          if (!End()) return;
          Deliver(status.ok() && !response_.Valid() ? BadAnswer("no message") : FromGrpc(status));
        });
  }

 private:
  void Deliver(const absl::Status& status) override {
    UnaryDone done = std::move(done_);
    // gRPC may still write to response_ if the call was given up.
    grpc::ByteBuffer none;
    done(status, status.ok() ? response_ : none);
  }

  using UnaryDone = RemoteCalls::UnaryDone;

  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
  UnaryDone done_;
};

}  // namespace

RemoteCalls::Operation::Operation(RemoteCalls& calls) : calls_(calls) {
  absl::MutexLock lock(&calls_.mu_);
  ++calls_.operations_;
}

RemoteCalls::Operation::~Operation() {
  absl::MutexLock lock(&calls_.mu_);
  --calls_.operations_;
}

RemoteCalls::RemoteCalls(RemoteChannel channel)
    : channel_(std::move(channel)), stub_(std::make_shared<grpc::GenericStub>(channel_.channel)) {}

RemoteCalls::~RemoteCalls() {
  std::vector<std::shared_ptr<RemoteCall>> calls;
  {
    absl::MutexLock lock(&mu_);
    cancelled_ = true;
    calls.assign(calls_.begin(), calls_.end());
  }
  for (const std::shared_ptr<RemoteCall>& call : calls) {
    call->GiveUp(absl::CancelledError("the client is being destroyed"));
  }
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(
      +[](size_t* operations) { return *operations == 0; }, &operations_));
}

void RemoteCalls::After(absl::Duration delay, absl::AnyInvocable<void()> then) {
  struct Timer {
    grpc::Alarm alarm;
    absl::AnyInvocable<void()> then;
  };
  const auto timer = std::make_shared<Timer>();
  timer->then = std::move(then);
  timer->alarm.Set(absl::ToChronoTime(absl::Now() + delay),
                   [held = std::shared_ptr<Timer>(timer)](bool) mutable {
                     // Out of the closure, which the timer keeps, and which would keep the timer.
                     const std::shared_ptr<Timer> expired = std::move(held);
                     expired->then();
                   });
}

bool RemoteCalls::Add(std::shared_ptr<RemoteCall> call) {
  absl::MutexLock lock(&mu_);
  if (cancelled_) return false;
  calls_.insert(std::move(call));
  return true;
}

void RemoteCalls::Remove(RemoteCall* call) {
  absl::MutexLock lock(&mu_);
  calls_.erase(call);
}

void RemoteCalls::Unary(const char* method, grpc::ByteBuffer request, absl::Time deadline,
                        bool wait_for_ready, UnaryDone done) {
  std::make_shared<UnaryCall>(*this, deadline, wait_for_ready, std::move(request), std::move(done))
      ->Start(method);
}

}  // namespace infercache
