// grpc.health.v1.Health/Check, whose two messages are a string and an enum: not worth a proto file
// of our own.

#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "client/src/remote_call.h"

namespace infercache {

inline constexpr char kHealthCheckMethod[] = "/grpc.health.v1.Health/Check";

grpc::ByteBuffer MakeHealthRequest(std::string_view service);
// OK if serving. UNAVAILABLE, as said by the daemon, if not; INTERNAL if the bytes are no answer.
absl::Status ParseHealthResponse(const grpc::ByteBuffer& response);

}  // namespace infercache
