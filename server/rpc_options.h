// The part of the configuration that the gRPC lane gets.

#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/rpc/rpc_server.h"

namespace infercache::server {

// Reads the TLS files and checks everything that does not take the addresses. `socket_path` may be
// empty. Errors name the file or the option.
absl::StatusOr<rpc::RpcOptions> MakeRpcOptions(const Config& config,
                                               const std::string& socket_path);

}  // namespace infercache::server
