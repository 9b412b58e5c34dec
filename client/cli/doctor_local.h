// The same-host lane as this process finds it: whether it gets a session, what the kernel tells the
// daemon about its clients, and what the daemon's arenas are made of.

#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/doctor_finding.h"
#include "infercache/v1/admin.pb.h"
#include "infercache/v1/local.pb.h"

namespace infercache::cli {

// Opens a session with `hello` at the socket `path` and ends it. Errors are the daemon's, or
// UNAVAILABLE (nobody is there, or it is no such daemon), DEADLINE_EXCEEDED after `limit`,
// DATA_LOSS (the answer is none).
absl::StatusOr<v1::Welcome> SayHello(const std::string& path, const v1::Hello& hello,
                                     absl::Duration limit);
// Whether this kernel tells the owner of a Unix socket when the peer's process dies
// (SO_PEERPIDFD), whichever PID namespace that is in. UNIMPLEMENTED: it does not.
absl::Status TryPeerPidfd();

// What those mean. Separate so that tests can ask about daemons and kernels other than these.
Finding LocalLaneFinding(const std::string& path, const std::string& namespace_name,
                         const absl::StatusOr<v1::Welcome>& welcome);
Finding PeerPidfdFinding(const absl::Status& tried);
// REQUIRES: at least one namespace.
Finding ArenaPagesFinding(const v1::GetStatsResponse& stats);

}  // namespace infercache::cli
