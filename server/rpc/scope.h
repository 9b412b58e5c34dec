// What every cache call does first: whose connection, who calls, which namespace, which
// fingerprint.

#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/fingerprint.h"
#include "infercache/v1/types.pb.h"
#include "server/rpc/acceptor.h"
#include "server/rpc/auth.h"
#include "server/rpc/call.h"
#include "server/rpc/pinned_budget.h"
#include "server/rpc/upload_watch.h"
#include "server/store/store.h"

namespace infercache::rpc {

class FlightStreams;

// What the services share. All of it is thread-safe and outlives every call.
struct Environment {
  store::Store& store;
  const Authenticator& authenticator;
  const Acceptor& acceptor;
  PinnedBudget& budget;
  CallMonitor& monitor;
  UploadWatch& uploads;
  FlightStreams& flights;
  const std::atomic<bool>& draining;
  uint64_t max_message_bytes;
};

struct Scope {
  std::shared_ptr<Connection> connection;
  std::shared_ptr<store::Namespace> ns;
  Fingerprint fingerprint;

  store::ObjectId Id(std::string_view key) const { return {key, fingerprint.hash()}; }
};

// Who calls, before a byte of the request is looked at.
struct Peer {
  std::shared_ptr<Connection> connection;
  Caller caller;
};
// UNAUTHENTICATED, or UNAVAILABLE if the connection is closed already.
absl::StatusOr<Peer> Identify(const Environment& environment,
                              const grpc::ServerContextBase& context);

// UNAUTHENTICATED, PERMISSION_DENIED, NOT_FOUND (namespace), INVALID_ARGUMENT (fingerprint),
// FAILED_PRECONDITION (the namespace demands another one).
absl::StatusOr<Scope> OpenScope(const Environment& environment, Peer peer, const v1::Scope& scope);

// UNAVAILABLE once the daemon drains.
absl::Status CheckAcceptsPuts(const Environment& environment);

using Keys = google::protobuf::RepeatedPtrField<std::string>;

// INVALID_ARGUMENT: empty or too long.
absl::Status CheckKey(std::string_view key);
// INVALID_ARGUMENT names the key: "keys[3]: ...", or there are too many.
absl::Status CheckKeys(const Keys& keys);

}  // namespace infercache::rpc
