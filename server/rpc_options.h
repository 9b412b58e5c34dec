// The part of the configuration that the gRPC lane gets.

#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/rpc/rpc_server.h"

namespace infercache::server {

// Reads the TLS files and checks everything that does not take the addresses. Errors name the file
// or the option. The Unix socket is not among the addresses: its connections are handed over.
absl::StatusOr<rpc::RpcOptions> MakeRpcOptions(const Config& config);

}  // namespace infercache::server
