#include "client/src/remote_transport.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/src/get_sink.h"
#include "client/src/health.h"
#include "client/src/listing.h"
#include "client/src/remote_flight.h"
#include "client/src/remote_get.h"
#include "client/src/remote_keys.h"
#include "client/src/remote_put.h"
#include "client/src/remote_reserve.h"
#include "client/src/status_conversion.h"
#include "infercache/v1/cache.pb.h"

namespace infercache {
namespace {

constexpr char kListMethod[] = "/infercache.v1.Cache/List";

}  // namespace

Reached ReachedBy(const absl::Status& status) {
  if (!IsUnreachable(status)) return Reached::kYes;
  return absl::IsDeadlineExceeded(status) ? Reached::kNotInTime : Reached::kNo;
}

RemoteTransport::RemoteTransport(RemoteChannel channel, v1::Scope scope, uint64_t max_unary_bytes)
    : backend_{.scope = std::move(scope),
               .max_unary_bytes = max_unary_bytes,
               .calls = RemoteCalls(std::move(channel))} {}

void RemoteTransport::Get(std::span<const std::string_view> keys, absl::Time deadline,
                          Done<std::vector<GetResult>> done) {
  StartRemoteGet(backend_, keys, deadline,
                 std::make_unique<ObjectSink>(keys.size(), std::move(done)));
}

void RemoteTransport::GetInto(std::span<const std::string_view> keys,
                              std::span<const std::span<std::byte>> destinations,
                              absl::Time deadline, Done<std::vector<GetIntoResult>> done) {
  StartRemoteGet(backend_, keys, deadline,
                 std::make_unique<BufferSink>(std::vector(destinations.begin(), destinations.end()),
                                              std::move(done)));
}

void RemoteTransport::Put(std::span<const PutItem> items, absl::Time deadline,
                          Done<std::vector<PutResult>> done) {
  StartRemotePut(backend_, items, deadline, std::move(done));
}

void RemoteTransport::Reserve(std::span<const ReserveItem> items, absl::Time,
                              Done<std::vector<ReserveResult>> done) {
  done(ReserveRemotely(this, items), Reached::kNotAsked);
}

void RemoteTransport::Commit(std::span<Reservation> reservations, absl::Time deadline,
                             Done<std::vector<PutResult>> done) {
  StartRemoteCommit(this, backend_, reservations, deadline, std::move(done));
}

void RemoteTransport::GetOrReserve(std::span<const std::string_view> keys, absl::Time deadline,
                                   absl::Duration claim_time, OnWords on_words) {
  StartRemoteFlight(backend_, keys, deadline, claim_time, std::move(on_words));
}

void RemoteTransport::Match(std::span<const std::string_view> keys, absl::Time deadline,
                            Done<MatchResult> done) {
  StartRemoteMatch(backend_, keys, deadline, std::move(done));
}

void RemoteTransport::Keys(KeysVerb verb, std::span<const std::string_view> keys,
                           absl::Time deadline, Done<KeysResult> done) {
  StartRemoteKeys(backend_, verb, keys, deadline, std::move(done));
}

void RemoteTransport::List(std::string_view key_prefix, uint32_t page_size,
                           std::string_view page_token, absl::Time deadline,
                           Done<ListResult> done) {
  v1::ListRequest request;
  *request.mutable_scope() = backend_.scope;
  request.set_key_prefix(key_prefix.data(), key_prefix.size());
  request.set_page_size(page_size);
  request.set_page_token(page_token.data(), page_token.size());
  auto operation = std::make_unique<RemoteCalls::Operation>(backend_.calls);
  backend_.calls.Unary(kListMethod, Serialize(request), deadline, /*wait_for_ready=*/false,
                       [operation = std::move(operation), done = std::move(done)](
                           absl::Status status, grpc::ByteBuffer& response) mutable {
                         v1::ListResponse message;
                         if (status.ok()) status = Parse(response, &message);
                         if (!status.ok()) return done({.status = status}, ReachedBy(status));
                         done(TakeListing(std::move(*message.mutable_objects()),
                                          std::move(*message.mutable_next_page_token())),
                              Reached::kYes);
                       });
}

void RemoteTransport::Ping(bool wait_for_daemon, absl::Time deadline, Done<absl::Status> done) {
  auto operation = std::make_unique<RemoteCalls::Operation>(backend_.calls);
  backend_.calls.Unary(kHealthCheckMethod, MakeHealthRequest(""), deadline, wait_for_daemon,
                       [operation = std::move(operation), done = std::move(done)](
                           absl::Status status, grpc::ByteBuffer& response) mutable {
                         if (status.ok()) status = ParseHealthResponse(response);
                         const Reached reached = ReachedBy(status);
                         done(std::move(status), reached);
                       });
}

}  // namespace infercache
