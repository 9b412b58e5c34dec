// What a Hello decides: whether there is a session, in which namespace, and what it may do.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/unique_fd.h"
#include "infercache/v1/local.pb.h"
#include "server/local/host.h"
#include "server/local/peer.h"
#include "server/local/session.h"

namespace infercache::local {

// Errors: UNIMPLEMENTED (the device's tier is off), FAILED_PRECONDITION (another protocol version,
// a fingerprint that contradicts the namespace's), UNAVAILABLE (draining), INVALID_ARGUMENT (client
// name, fingerprint), NOT_FOUND (no such namespace), PERMISSION_DENIED (names the namespace and who
// decides), RESOURCE_EXHAUSTED (out of descriptors or memory). `descriptors` are those that go
// beside the Welcome.
absl::StatusOr<std::unique_ptr<Session>> OpenSession(Host& host, const v1::Hello& hello,
                                                     const Peer& peer, uint64_t id,
                                                     v1::Welcome* welcome,
                                                     std::vector<UniqueFd>* descriptors);

}  // namespace infercache::local
