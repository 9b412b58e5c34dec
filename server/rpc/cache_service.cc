#include "server/rpc/cache_service.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "server/answers/listing.h"
#include "server/rpc/error.h"
#include "server/rpc/flight_stream.h"
#include "server/rpc/get_stream.h"
#include "server/rpc/message_bytes.h"
#include "server/rpc/put.h"
#include "server/rpc/put_stream.h"
#include "server/rpc/response_slices.h"

namespace infercache::rpc {
namespace {

// Every gRPC client takes 4 MiB unless told otherwise; a page ends before that.
constexpr size_t kMaxListPageBytes = 3 << 20;

void SetBit(std::string& bits, size_t index) {
  bits[index / 8] = static_cast<char>(bits[index / 8] | 1 << index % 8);
}

std::string NoBits(size_t count) { return std::string((count + 7) / 8, '\0'); }

// Last to first: of what one call uses, the head of the chain ends up most recently used.
template <typename Use>
void ForEachFromLast(const Keys& keys, Use use) {
  for (int i = keys.size() - 1; i >= 0; --i) use(i, keys[i]);
}

// The namespace and fingerprint of a request with checked keys. Who calls comes before what is
// said.
template <typename Request>
absl::StatusOr<Scope> OpenKeys(const Environment& environment,
                               const grpc::ServerContextBase& context,
                               const grpc::ByteBuffer& bytes, Request* request) {
  ASSIGN_OR_RETURN(Peer peer, Identify(environment, context));
  RETURN_IF_ERROR(ParseRequest(bytes, request));
  ASSIGN_OR_RETURN(Scope scope, OpenScope(environment, std::move(peer), request->scope()));
  RETURN_IF_ERROR(CheckKeys(request->keys()));
  return scope;
}

absl::Status DoPut(const Environment& environment, const grpc::ServerContextBase& context,
                   const grpc::ByteBuffer& bytes, grpc::ByteBuffer* response) {
  RETURN_IF_ERROR(CheckAcceptsPuts(environment));
  ASSIGN_OR_RETURN(Peer peer, Identify(environment, context));
  const BufferPieces buffer(bytes);
  ASSIGN_OR_RETURN(const PutRequestView request, ParsePutRequest(buffer.pieces()));
  ASSIGN_OR_RETURN(const Scope scope, OpenScope(environment, std::move(peer), request.scope));
  v1::PutResponse result;
  RETURN_IF_ERROR(StoreItems(scope, request, buffer.pieces(), &result));
  *response = ToBuffer(result);
  return absl::OkStatus();
}

void DoMatch(const Scope& scope, const Keys& keys, v1::MatchResponse* response) {
  std::string present = NoBits(keys.size());
  response->mutable_size_bytes()->Resize(keys.size(), 0);
  uint32_t prefix = keys.size();
  const uint64_t request = scope.ns->NewRequest();
  ForEachFromLast(keys, [&](int i, const std::string& key) {
    const auto size = scope.ns->Probe(scope.Id(key), /*touch=*/true,
                                      {.request = request, .ends_request = i + 1 == keys.size()});
    if (!size) {
      prefix = i;
      return;
    }
    SetBit(present, i);
    response->set_size_bytes(i, *size);
  });
  response->set_prefix_length(prefix);
  response->set_present(std::move(present));
}

absl::Status DoList(const Environment& environment, const Scope& scope,
                    const v1::ListRequest& request, grpc::ByteBuffer* response) {
  auto listing = ListKeys(*scope.ns, scope.fingerprint.hash(),
                          {.key_prefix = request.key_prefix(),
                           .page_token = request.page_token(),
                           .page_size = request.page_size(),
                           .max_bytes = kMaxListPageBytes});
  if (!listing.ok()) return WithReason(listing.status(), "INVALID_PAGE");
  v1::ListResponse page;
  *page.mutable_objects() = std::move(listing->objects);
  page.set_next_page_token(std::move(listing->next_page_token));
  ASSIGN_OR_RETURN(*response, MakeHeldResponse(scope, page, environment));
  return absl::OkStatus();
}

// Runs `work()` as the whole of a unary call, at once.
template <typename Work>
grpc::ServerUnaryReactor* Serve(const Environment& environment, Method method,
                                const grpc::ByteBuffer& request, grpc::ByteBuffer* response,
                                Work work) {
  auto* call = new UnaryCall(environment.monitor, method);
  call->scope().AddRequestBytes(request.Length());
  absl::Status status = call->scope().admission();
  if (status.ok()) status = work();
  if (status.ok()) call->scope().AddResponseBytes(response->Length());
  call->Complete(status);
  return call;
}

// The same for methods that take keys and answer with a bit for each.
template <typename Request, typename Response, typename Work>
grpc::ServerUnaryReactor* ServeKeys(const Environment& environment, Method method,
                                    const grpc::ServerContextBase& context,
                                    const grpc::ByteBuffer& bytes, grpc::ByteBuffer* response,
                                    Work work) {
  return Serve(environment, method, bytes, response, [&]() -> absl::Status {
    Request request;
    ASSIGN_OR_RETURN(const Scope scope, OpenKeys(environment, context, bytes, &request));
    Response message;
    work(scope, request.keys(), &message);
    *response = ToBuffer(message);
    return absl::OkStatus();
  });
}

// One bit per key: what `test` says of it.
template <typename Test>
std::string BitsOf(const Keys& keys, Test test) {
  std::string bits = NoBits(keys.size());
  ForEachFromLast(keys, [&bits, &test](int i, const std::string& key) {
    if (test(key)) SetBit(bits, i);
  });
  return bits;
}

}  // namespace

grpc::ServerUnaryReactor* CacheService::Get(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* request,
                                            grpc::ByteBuffer* response) {
  return Serve(environment_, Method::kGet, *request, response, [&]() -> absl::Status {
    v1::GetRequest get;
    ASSIGN_OR_RETURN(const Scope scope, OpenKeys(environment_, *context, *request, &get));
    ASSIGN_OR_RETURN(*response, MakeGetResponse(scope, get, environment_));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CacheService::Put(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* request,
                                            grpc::ByteBuffer* response) {
  return Serve(environment_, Method::kPut, *request, response,
               [&] { return DoPut(environment_, *context, *request, response); });
}

grpc::ServerUnaryReactor* CacheService::Match(grpc::CallbackServerContext* context,
                                              const grpc::ByteBuffer* request,
                                              grpc::ByteBuffer* response) {
  return Serve(environment_, Method::kMatch, *request, response, [&]() -> absl::Status {
    v1::MatchRequest match;
    ASSIGN_OR_RETURN(const Scope scope, OpenKeys(environment_, *context, *request, &match));
    v1::MatchResponse message;
    DoMatch(scope, match.keys(), &message);
    ASSIGN_OR_RETURN(*response, MakeHeldResponse(scope, message, environment_));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CacheService::Exists(grpc::CallbackServerContext* context,
                                               const grpc::ByteBuffer* request,
                                               grpc::ByteBuffer* response) {
  return ServeKeys<v1::ExistsRequest, v1::ExistsResponse>(
      environment_, Method::kExists, *context, *request, response,
      [](const Scope& scope, const Keys& keys, v1::ExistsResponse* answer) {
        answer->set_present(BitsOf(keys, [&scope](const auto& key) {
          return scope.ns->Probe(scope.Id(key), /*touch=*/false).has_value();
        }));
      });
}

grpc::ServerUnaryReactor* CacheService::Delete(grpc::CallbackServerContext* context,
                                               const grpc::ByteBuffer* request,
                                               grpc::ByteBuffer* response) {
  return ServeKeys<v1::DeleteRequest, v1::DeleteResponse>(
      environment_, Method::kDelete, *context, *request, response,
      [](const Scope& scope, const Keys& keys, v1::DeleteResponse* answer) {
        answer->set_deleted(
            BitsOf(keys, [&scope](const auto& key) { return scope.ns->Erase(scope.Id(key)); }));
      });
}

grpc::ServerUnaryReactor* CacheService::Touch(grpc::CallbackServerContext* context,
                                              const grpc::ByteBuffer* request,
                                              grpc::ByteBuffer* response) {
  return ServeKeys<v1::TouchRequest, v1::TouchResponse>(
      environment_, Method::kTouch, *context, *request, response,
      [](const Scope& scope, const Keys& keys, v1::TouchResponse* answer) {
        store::UseContext use{.request = scope.ns->NewRequest(), .ends_request = true};
        answer->set_present(BitsOf(keys, [&scope, &use](const auto& key) {
          const bool present = scope.ns->Probe(scope.Id(key), /*touch=*/true, use).has_value();
          use.ends_request = false;  // the last key comes first
          return present;
        }));
      });
}

grpc::ServerUnaryReactor* CacheService::List(grpc::CallbackServerContext* context,
                                             const grpc::ByteBuffer* bytes,
                                             grpc::ByteBuffer* response) {
  auto* call = new UnaryCall(environment_.monitor, Method::kList);
  call->scope().AddRequestBytes(bytes->Length());
  v1::ListRequest request;
  auto scope = [&]() -> absl::StatusOr<Scope> {
    RETURN_IF_ERROR(call->scope().admission());
    ASSIGN_OR_RETURN(Peer peer, Identify(environment_, *context));
    RETURN_IF_ERROR(ParseRequest(*bytes, &request));
    return OpenScope(environment_, std::move(peer), request.scope());
  }();
  if (!scope.ok()) {
    call->Complete(scope.status());
    return call;
  }
  // Context and response live until the call completes.
  background_.Post(
      [this, call, context, response, request = std::move(request), scope = *std::move(scope)] {
        if (context->IsCancelled()) return call->Complete(absl::CancelledError("the client left"));
        const absl::Status status = DoList(environment_, scope, request, response);
        if (status.ok()) call->scope().AddResponseBytes(response->Length());
        call->Complete(status);
      });
  return call;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* CacheService::GetStream(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return StartGetStream(environment_, context, request);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* CacheService::PutStream(
    grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  return StartPutStream(environment_, context, response);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* CacheService::Flight(
    grpc::CallbackServerContext* context) {
  return StartFlightStream(environment_, context);
}

}  // namespace infercache::rpc
