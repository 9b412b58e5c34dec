// Failures on their way to the client: a reason that programs can branch on, and the conversion to
// a gRPC status with rich details.

#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "common/absl_view.h"

namespace grpc {
class Status;
}

namespace infercache::rpc {

// The same failure with a reason in UPPER_SNAKE_CASE. A failure that already has one keeps it.
absl::Status WithReason(absl::Status status, std::string_view reason);

// The same failure with `where` in front of its message: "items[3].key: ...".
absl::Status AtField(const absl::Status& status, std::string_view where);

// Same code and message, with a google.rpc.ErrorInfo (domain "infercache"; a failure without a
// reason gets its code's name) and, if it is RESOURCE_EXHAUSTED or UNAVAILABLE, a RetryInfo.
grpc::Status ToGrpcStatus(const absl::Status& status);

// Peers' bytes for use in a message: escaped, and cut after 64 bytes.
std::string Printable(std::string_view bytes);

}  // namespace infercache::rpc
