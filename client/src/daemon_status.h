// Errors as a daemon gives them, whatever carried them, and how to tell them from a daemon that
// gives none.

#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace infercache {

// The payload that marks an error as the daemon's own word: a serialized google.rpc.Status, or
// nothing.
inline constexpr char kStatusDetailsUrl[] = "type.googleapis.com/google.rpc.Status";

// The code from a wire message; anything that is no error code becomes UNKNOWN.
absl::StatusCode ErrorCodeFromWire(int64_t code);

// An error in the daemon's name that did not come as a gRPC status, marked so that IsUnreachable()
// is false for it.
absl::Status AsSaidByDaemon(absl::Status status);
// The same of a code and a message from the wire.
absl::Status SaidByDaemon(uint32_t code, const std::string& message);

// The error for a daemon whose answer makes no sense.
absl::Status BadAnswer(absl::string_view what);

// A copy that shares nothing with the original, for another thread: Abseil counts references where
// ThreadSanitizer does not look.
absl::Status Unshared(const absl::Status& status);

// True for an error that no daemon gave: dead, wrong address, too slow, connection lost. False for
// what the daemon itself said, its UNAVAILABLE while draining included.
bool IsUnreachable(const absl::Status& status);

}  // namespace infercache
