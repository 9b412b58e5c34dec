// Fetches one object in chunks, straight into its place in a GetSink.

#pragma once

#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "client/src/get_sink.h"
#include "client/src/remote_backend.h"

namespace infercache {

// The object was asked for before, which was its use. Tells `sink` about a hit at `index`; a miss
// and an error only show in the status that `done` gets. REQUIRES: an Operation and `sink` live
// until `done` is called, which happens exactly once.
void StartGetStream(RemoteBackend& backend, const std::string& key, absl::Time deadline,
                    GetSink& sink, size_t index, absl::AnyInvocable<void(absl::Status)> done);

}  // namespace infercache
