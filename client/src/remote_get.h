// Get and GetInto over gRPC: unary calls as far as the daemon's answers hold the values, more of
// them for what it left out, a stream for each object too large for any answer.

#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "client/src/get_sink.h"
#include "client/src/remote_backend.h"

namespace infercache {

void StartRemoteGet(RemoteBackend& backend, std::span<const std::string_view> keys,
                    absl::Time deadline, std::unique_ptr<GetSink> sink);

}  // namespace infercache
