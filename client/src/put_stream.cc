#include "client/src/put_stream.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "client/src/put_request.h"
#include "client/src/status_conversion.h"
#include "infercache/v1/cache.pb.h"

namespace infercache {
namespace {

constexpr char kPutStreamMethod[] = "/infercache.v1.Cache/PutStream";
constexpr uint64_t kChunkBytes = uint64_t{1} << 20;

// Writes follow each other, reads follow each other, and OnDone comes last; a write and a read may
// end at the same time, but share nothing.
class PutStreamCall final : public RemoteCall, public StreamReactor {
 public:
  PutStreamCall(RemoteBackend& backend, const PutItem& item, bool ends_request, absl::Time deadline,
                absl::AnyInvocable<void(PutResult)> done)
      : RemoteCall(backend.calls, deadline),
        pieces_(item.value),
        value_(pieces_),
        done_(std::move(done)),
        outgoing_(MakePutStreamHeader(backend.scope, item, ends_request)) {}

  void Start() {
    if (!Begin()) return;
    self_ = shared_from_this();
    stub().PrepareBidiStreamingCall(&context(), kPutStreamMethod, {}, this);
    StartRead(&incoming_);
    StartWrite(&outgoing_);
    StartCall();
  }

  void OnWriteDone(bool ok) override {
    // Broken, or answered before the end: OnDone tells.
    if (!ok) return;
    {
      absl::MutexLock lock(&mu_);
      if (over_) return;  // the value is the caller's again
      const size_t bytes = std::min(value_.remaining(), kChunkBytes);
      if (bytes > 0) outgoing_ = MakePutStreamChunk(value_, bytes);
      all_written_ = bytes == 0;
    }
    if (all_written_) return StartWritesDone();
    StartWrite(&outgoing_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (answered_) {
      second_answer_ = true;
      context().TryCancel();
    } else {
      answered_ = true;
      answer_.Swap(&incoming_);
    }
    StartRead(&incoming_);
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<RemoteCall> self = std::move(self_);
    if (!End()) return;
    done_(Result(FromGrpc(status)));
  }

 private:
  void Deliver(const absl::Status& status) override { done_({.status = status}); }

  PutResult Result(absl::Status status) {
    if (second_answer_) return {.status = BadAnswer("two answers to one put")};
    if (status.ok() && !answered_) status = BadAnswer("no message");
    v1::PutStreamResponse message;
    if (status.ok()) status = Parse(answer_, &message);
    if (!status.ok()) return {.status = std::move(status)};
    switch (message.outcome()) {
      case v1::PUT_OUTCOME_STORED:
        return {.outcome = PutOutcome::kStored};
      case v1::PUT_OUTCOME_EXISTS:
        return {.outcome = PutOutcome::kExists};
      default:
        return {.status = BadAnswer("a put without an outcome")};
    }
  }

  std::shared_ptr<RemoteCall> self_;  // while gRPC refers to this
  const std::vector<std::span<const std::byte>> pieces_;
  ValueReader value_;
  absl::AnyInvocable<void(PutResult)> done_;

  grpc::ByteBuffer outgoing_;
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer answer_;
  bool all_written_ = false;
  bool answered_ = false;
  bool second_answer_ = false;
};

}  // namespace

void StartPutStream(RemoteBackend& backend, const PutItem& item, bool ends_request,
                    absl::Time deadline, absl::AnyInvocable<void(PutResult)> done) {
  std::make_shared<PutStreamCall>(backend, item, ends_request, deadline, std::move(done))->Start();
}

}  // namespace infercache
