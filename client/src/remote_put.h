// Put over gRPC: unary calls of as many items as fit, a stream for each item that is too large.
//
// The bytes are copied once, into the request. Handing gRPC slices that point at the caller's
// memory would save that copy, but gRPC keeps slices of a call that was cancelled or ran out of
// time for as long as they sit in its write buffer, which a stalled daemon decides; the completion
// would have to wait for that, and this library promises both that it comes by the deadline and
// that the memory is free by then. At most max_unary_bytes, or one chunk, of a batch are copied at
// a time.

#pragma once

#include <span>

#include "client/src/remote_backend.h"
#include "client/src/transport.h"

namespace infercache {

void StartRemotePut(RemoteBackend& backend, std::span<const PutItem> items, absl::Time deadline,
                    Done<std::vector<PutResult>> done);

}  // namespace infercache
