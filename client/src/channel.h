// From an endpoint and credentials to a gRPC channel, the same way for workers and for tools.

#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/src/endpoint.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "infercache/client.h"

namespace infercache {

struct RemoteChannel {
  std::shared_ptr<grpc::Channel> channel;
  Endpoint endpoint;
  std::string bearer_token;

  // Sets what every call carries. An infinite `deadline` becomes a day.
  void Prepare(grpc::ClientContext& context, absl::Time deadline) const;
};

// Does no I/O. INVALID_ARGUMENT: the endpoint, TLS material that cannot be parsed, or a bearer
// token that would travel in clear text to another host.
absl::StatusOr<RemoteChannel> MakeChannel(const ClientOptions& options);

}  // namespace infercache
