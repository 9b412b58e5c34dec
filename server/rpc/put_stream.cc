#include "server/rpc/put_stream.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "infercache/v1/cache.pb.h"
#include "server/rpc/error.h"
#include "server/rpc/message_bytes.h"
#include "server/rpc/put.h"
#include "server/rpc/upload_watch.h"

namespace infercache::rpc {
namespace {

absl::Status InvalidStream(std::string_view message) {
  return WithReason(absl::InvalidArgumentError(AbslView(message)), "INVALID_STREAM");
}

class PutStream final : public grpc::ServerReadReactor<grpc::ByteBuffer> {
 public:
  PutStream(const Environment& environment, grpc::CallbackServerContext* context,
            grpc::ByteBuffer* response)
      : environment_(environment),
        context_(context),
        response_(response),
        scope_(environment.monitor, Method::kPutStream),
        watched_(environment.uploads, *context) {
    if (const absl::Status status = Admit(); status.ok()) {
      StartRead(&message_);
    } else {
      End(status);
    }
  }

  void OnReadDone(bool ok) override {
    watched_.Progress();
    if (!ok) return End(CloseStream());
    scope_.AddRequestBytes(message_.Length());
    const absl::Status status = Accept();
    message_.Clear();
    if (!status.ok() || outcome_) return End(status);
    StartRead(&message_);
  }

  void OnDone() override { delete this; }

 private:
  absl::Status Admit() {
    RETURN_IF_ERROR(scope_.admission());
    ASSIGN_OR_RETURN(peer_, Identify(environment_, *context_));
    return CheckAcceptsPuts(environment_);
  }

  absl::Status Accept() {
    const BufferPieces buffer(message_);
    ASSIGN_OR_RETURN(const PutStreamRequestView request, ParsePutStreamRequest(buffer.pieces()));
    if (request.header) return Open(*request.header);
    if (!request.chunk) return InvalidStream("a message with neither header nor chunk");
    if (!lease_) return InvalidStream("the first message must be a header");
    const std::span<std::byte> rest = lease_->bytes().subspan(received_);
    if (request.chunk->size > rest.size()) {
      return InvalidStream(
          absl::StrCat("more bytes than the header's size_bytes of ", lease_->bytes().size()));
    }
    CopyRun(buffer.pieces(), *request.chunk, rest.first(request.chunk->size));
    received_ += request.chunk->size;
    return absl::OkStatus();
  }

  absl::Status Open(const v1::PutStreamHeader& header) {
    if (lease_) return InvalidStream("a second header");
    ASSIGN_OR_RETURN(Scope scope, OpenScope(environment_, *peer_, header.scope()));
    RETURN_IF_ERROR(AtField(CheckKey(header.key()), "key"));
    if (header.size_bytes() == 0)
      return InvalidStream("size_bytes: 0; an object has at least one byte");
    ASSIGN_OR_RETURN(const ObjectInfo info, CheckInfo(header.info()));
    ASSIGN_OR_RETURN(const std::vector<PartSpec> parts,
                     CheckParts(header.parts(), header.size_bytes()));
    use_ = {.request = scope.ns->NewRequest(), .ends_request = header.ends_request()};
    auto lease = scope.ns->Reserve({.id = scope.Id(header.key()),
                                    .size_bytes = header.size_bytes(),
                                    .parts = parts,
                                    .info = &info,
                                    .overwrite = header.overwrite(),
                                    .use = {.request = use_.request}});
    if (!lease.ok()) return ExplainRefusal(lease.status());
    watched_.Expect(header.size_bytes());
    ns_ = std::move(scope.ns);
    lease_ = *std::move(lease);
    // The rest of the stream would change nothing: answer now.
    if (!lease_) outcome_ = v1::PUT_OUTCOME_EXISTS;
    return absl::OkStatus();
  }

  // The client has sent all it is going to.
  absl::Status CloseStream() {
    if (context_->IsCancelled()) return absl::CancelledError("the client left");
    if (!lease_) return InvalidStream("the stream ended before its header");
    const uint64_t expected = lease_->bytes().size();
    if (received_ < expected) {
      return InvalidStream(
          absl::StrCat("the stream ended after ", received_, " of ", expected, " bytes"));
    }
    ASSIGN_OR_RETURN(const store::CommitOutcome outcome, ns_->Commit(*std::move(lease_), use_));
    outcome_ =
        outcome == store::CommitOutcome::kStored ? v1::PUT_OUTCOME_STORED : v1::PUT_OUTCOME_EXISTS;
    return absl::OkStatus();
  }

  void End(const absl::Status& status) {
    lease_.reset();
    if (status.ok()) {
      v1::PutStreamResponse response;
      response.set_outcome(*outcome_);
      *response_ = ToBuffer(response);
      scope_.AddResponseBytes(response_->Length());
    }
    Finish(scope_.End(status));
  }

  const Environment& environment_;
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;
  CallScope scope_;
  UploadWatch::Entry watched_;
  grpc::ByteBuffer message_;
  std::optional<Peer> peer_;
  std::shared_ptr<store::Namespace> ns_;
  store::UseContext use_;  // its anchor is the object's own parent
  std::optional<store::WriteLease> lease_;
  uint64_t received_ = 0;
  std::optional<v1::PutOutcome> outcome_;
};

}  // namespace

grpc::ServerReadReactor<grpc::ByteBuffer>* StartPutStream(const Environment& environment,
                                                          grpc::CallbackServerContext* context,
                                                          grpc::ByteBuffer* response) {
  return new PutStream(environment, context, response);
}

}  // namespace infercache::rpc
