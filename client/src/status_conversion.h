// grpc::Status -> absl::Status: the only file that knows both. The codes are equal number by
// number.

#pragma once

#include "absl/status/status.h"
#include "client/src/daemon_status.h"
#include "grpcpp/support/status.h"

namespace infercache {

// Message and code as they are. What the daemon attached (a serialized google.rpc.Status) becomes
// the payload under its type URL; it is also what tells the daemon's word from gRPC's own: a daemon
// attaches details to all that it says.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace infercache
