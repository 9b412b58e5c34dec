#include "server/rpc/get_stream.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "infercache/v1/cache.pb.h"
#include "server/rpc/error.h"
#include "server/rpc/message_bytes.h"
#include "server/rpc/response_slices.h"

namespace infercache::rpc {
namespace {

constexpr uint32_t kDefaultChunkBytes = 1 << 20;
constexpr uint32_t kMinChunkBytes = 4 << 10;
constexpr uint32_t kMaxChunkBytes = 4 << 20;

class GetStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  GetStream(const Environment& environment, grpc::CallbackServerContext* context)
      : environment_(environment),
        context_(context),
        scope_(environment.monitor, Method::kGetStream) {}

  void Begin(const grpc::ByteBuffer& request) {
    scope_.AddRequestBytes(request.Length());
    const absl::Status status = Open(request);
    if (!status.ok()) return Finish(scope_.End(status));
    Write(ToBuffer(header_));
    header_ = {};  // it can be long, and what is on its way is a copy
  }

  void OnWriteDone(bool ok) override {
    message_.Clear();
    if (!ok || context_->IsCancelled()) {
      return Finish(scope_.End(absl::CancelledError("the client left")));
    }
    if (object_ != nullptr) object_->hold->ExpectProgress(std::chrono::steady_clock::now());
    const uint64_t size = object_ == nullptr ? 0 : object_->lease.bytes().size();
    if (offset_ == size) return Finish(scope_.End(absl::OkStatus()));
    const uint64_t chunk = std::min<uint64_t>(chunk_bytes_, size - offset_);
    Write(MakeChunk(object_, std::exchange(offset_, offset_ + chunk), chunk));
  }

  void OnDone() override { delete this; }

 private:
  absl::Status Open(const grpc::ByteBuffer& bytes) {
    RETURN_IF_ERROR(scope_.admission());
    ASSIGN_OR_RETURN(Peer peer, Identify(environment_, *context_));
    v1::GetStreamRequest request;
    RETURN_IF_ERROR(ParseRequest(bytes, &request));
    ASSIGN_OR_RETURN(Scope scope, OpenScope(environment_, std::move(peer), request.scope()));
    RETURN_IF_ERROR(AtField(CheckKey(request.key()), "key"));
    if (request.chunk_bytes() != 0) chunk_bytes_ = request.chunk_bytes();
    if (chunk_bytes_ < kMinChunkBytes || chunk_bytes_ > kMaxChunkBytes) {
      return WithReason(absl::InvalidArgumentError(absl::StrCat(
                            "chunk_bytes: ", chunk_bytes_, "; it must be 0 or lie between ",
                            kMinChunkBytes, " and ", kMaxChunkBytes)),
                        "INVALID_CHUNK_SIZE");
    }

    v1::GetStreamHeader& header = *header_.mutable_header();
    auto lease = scope.ns->Lookup(scope.Id(request.key()), /*touch=*/!request.counted(),
                                  {.ends_request = true});
    if (!lease) return absl::OkStatus();
    header.set_found(true);
    Describe(*lease, header.mutable_object());
    const uint64_t size = header_.ByteSizeLong() + lease->bytes().size();
    const auto now = std::chrono::steady_clock::now();
    PinnedBudget& budget = environment_.budget;
    ASSIGN_OR_RETURN(auto hold, budget.Acquire(std::move(scope.connection),
                                               budget.StreamCharge(size), size, now));
    hold->ExpectProgress(now);
    object_ = std::make_shared<StreamedObject>(
        StreamedObject{.hold = std::move(hold), .lease = *std::move(lease)});
    return absl::OkStatus();
  }

  void Write(grpc::ByteBuffer message) {
    message_.Swap(&message);
    scope_.AddResponseBytes(message_.Length());
    StartWrite(&message_);
  }

  const Environment& environment_;
  grpc::CallbackServerContext* const context_;
  CallScope scope_;
  v1::GetStreamResponse header_;
  uint32_t chunk_bytes_ = kDefaultChunkBytes;
  std::shared_ptr<StreamedObject> object_;  // null = not found
  uint64_t offset_ = 0;
  grpc::ByteBuffer message_;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGetStream(const Environment& environment,
                                                           grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request) {
  auto* stream = new GetStream(environment, context);
  stream->Begin(*request);
  return stream;
}

}  // namespace infercache::rpc
