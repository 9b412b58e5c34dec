#include "client/src/get_stream.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/get_response.h"
#include "client/src/status_conversion.h"
#include "common/status_macros.h"
#include "infercache/v1/cache.pb.h"

namespace infercache {
namespace {

constexpr char kGetStreamMethod[] = "/infercache.v1.Cache/GetStream";

// One read is under way at any time; OnDone comes last.
class GetStreamCall final : public RemoteCall, public StreamReactor {
 public:
  GetStreamCall(RemoteBackend& backend, const std::string& key, absl::Time deadline, GetSink& sink,
                size_t index, absl::AnyInvocable<void(absl::Status)> done)
      : RemoteCall(backend.calls, deadline), sink_(sink), index_(index), done_(std::move(done)) {
    v1::GetStreamRequest request;
    *request.mutable_scope() = backend.scope;
    request.set_key(key);
    request.set_counted(true);
    request_ = Serialize(request);
  }

  void Start() {
    if (!Begin()) return;
    self_ = shared_from_this();
    stub().PrepareBidiStreamingCall(&context(), kGetStreamMethod, {}, this);
    StartWriteLast(&request_, grpc::WriteOptions());
    StartRead(&incoming_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;  // the end, or an error: OnDone tells which
    {
      absl::MutexLock lock(&mu_);
      if (!over_ && failure_.ok()) failure_ = Take();
    }
    // Once it failed, reads go on only until the cancellation shows.
    if (!failure_.ok()) context().TryCancel();
    StartRead(&incoming_);
  }

  void OnDone(const grpc::Status& grpc_status) override {
    const std::shared_ptr<RemoteCall> self = std::move(self_);
    if (!End()) return;
    absl::Status status = failure_.ok() ? FromGrpc(grpc_status) : failure_;
    if (status.ok()) status = Conclude();
    Deliver(status);
  }

 private:
  // One message.
  absl::Status Take() {
    const ReceivedMessage message(incoming_);
    absl::StatusOr<ReceivedChunk> received = ParseGetStreamResponse(message.cursor());
    if (!received.ok()) return BadAnswer(received.status().message());
    if (received->is_header != !header_seen_) return BadAnswer("header and chunks out of order");
    if (!header_seen_) return TakeHeader(std::move(received->header));
    const WireCursor& chunk = received->chunk;
    if (chunk.remaining() > place_.size() - filled_) {
      return BadAnswer(absl::StrCat("more than the ", place_.size(), " bytes of the object"));
    }
    chunk.CopyTo(place_.subspan(filled_, chunk.remaining()));
    filled_ += chunk.remaining();
    return absl::OkStatus();
  }

  void Deliver(const absl::Status& status) override { done_(status); }

  absl::Status TakeHeader(ReceivedResult header) {
    header_seen_ = true;
    if (!header.found) return absl::OkStatus();
    const uint64_t size_bytes = header.description.size_bytes;
    RETURN_IF_ERROR(sink_.Fits(index_, size_bytes));
    ASSIGN_OR_RETURN(place_, sink_.Allocate(index_, size_bytes));
    description_ = std::move(header.description);
    return absl::OkStatus();
  }

  absl::Status Conclude() {
    if (!header_seen_) return BadAnswer("a stream without a header");
    if (!description_.has_value()) return absl::OkStatus();
    if (filled_ != place_.size()) {
      return BadAnswer(absl::StrCat(filled_, " of ", place_.size(), " bytes"));
    }
    sink_.Hit(index_, *std::move(description_));
    return absl::OkStatus();
  }

  std::shared_ptr<RemoteCall> self_;  // while gRPC refers to this
  GetSink& sink_;
  const size_t index_;
  absl::AnyInvocable<void(absl::Status)> done_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer incoming_;

  absl::Status failure_;  // ours; gRPC's comes with OnDone
  bool header_seen_ = false;
  std::optional<ObjectDescription> description_;
  std::span<std::byte> place_;
  size_t filled_ = 0;
};

}  // namespace

void StartGetStream(RemoteBackend& backend, const std::string& key, absl::Time deadline,
                    GetSink& sink, size_t index, absl::AnyInvocable<void(absl::Status)> done) {
  std::make_shared<GetStreamCall>(backend, key, deadline, sink, index, std::move(done))->Start();
}

}  // namespace infercache
