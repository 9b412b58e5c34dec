// Reserve and Commit over gRPC, where nobody can write in place: room is memory of this process,
// and its commit is a put.

#pragma once

#include <span>
#include <vector>

#include "client/src/remote_backend.h"
#include "client/src/transport.h"

namespace infercache {

// `owner` names the transport. RESOURCE_EXHAUSTED: no memory.
std::vector<ReserveResult> ReserveRemotely(const void* owner, std::span<const ReserveItem> items);
// Takes the reservations. INVALID_ARGUMENT for what ReserveRemotely(owner, ...) did not make.
void StartRemoteCommit(const void* owner, RemoteBackend& backend,
                       std::span<Reservation> reservations, absl::Time deadline,
                       Done<std::vector<PutResult>> done);

}  // namespace infercache
