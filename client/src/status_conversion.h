// grpc::Status <-> absl::Status: the only file that knows both. The codes are equal number by
// number.

#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace infercache {

// Message and code as they are. What the daemon attached (a serialized google.rpc.Status) becomes
// the payload under its type URL; it is also what tells the daemon's word from gRPC's own.
absl::Status FromGrpc(const grpc::Status& status);

// An error in the daemon's name that did not come as a gRPC status, marked so that IsUnreachable()
// is false for it.
absl::Status AsSaidByDaemon(absl::Status status);

// The code from a wire message; anything that is no error code becomes UNKNOWN.
absl::StatusCode ErrorCodeFromWire(int code);

// True for an error that no daemon gave: dead, wrong address, too slow, connection lost. False for
// what the daemon itself said, its UNAVAILABLE while draining included: it attaches details to all.
bool IsUnreachable(const absl::Status& status);

}  // namespace infercache
