// Match, Exists, Delete and Touch over gRPC: keys in, a bit per key out.

#pragma once

#include <span>
#include <string_view>

#include "client/src/remote_backend.h"
#include "client/src/transport.h"

namespace infercache {

void StartRemoteMatch(RemoteBackend& backend, std::span<const std::string_view> keys,
                      absl::Time deadline, Done<MatchResult> done);
void StartRemoteKeys(RemoteBackend& backend, KeysVerb verb, std::span<const std::string_view> keys,
                     absl::Time deadline, Done<KeysResult> done);

}  // namespace infercache
