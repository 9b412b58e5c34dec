// Whether the daemon can be reached, by every way that it offers, and what it says about itself.

#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/doctor_finding.h"
#include "client/cli/doctor_machine.h"
#include "infercache/v1/admin.pb.h"

namespace infercache::cli {

// Where the daemon was asked.
struct AskedEndpoint {
  std::string text;    // host:port or unix:PATH
  bool local = false;  // loopback or a Unix socket: the daemon is on this machine
};

// What came of asking: `took` counts only if it answered.
Finding EndpointFinding(const AskedEndpoint& endpoint,
                        const absl::StatusOr<v1::GetInfoResponse>& info, absl::Duration took);

// Opens a connection to "host:port" or "unix:PATH" and closes it again.
using Dial = std::function<absl::Status(const std::string& address)>;
// UNAVAILABLE says why not; DEADLINE_EXCEEDED after `limit`. Resolving a name is not limited.
absl::Status DialAddress(const std::string& address, absl::Duration limit);

// One finding for each address that the daemon listens on: gRPC, HTTP, Unix socket. Those that only
// its own machine can reach are not tried from another.
std::vector<Finding> CheckLanes(const AskedEndpoint& endpoint, const v1::GetInfoResponse& info,
                                const Dial& dial);

// FindSubject, with what the daemon there says that it needs of the machine.
Subject DescribeSubject(const Machine& machine, const v1::GetInfoResponse& info,
                        const v1::GetStatsResponse& stats);

Finding CheckVersion(std::string_view own_version, const v1::GetInfoResponse& info);

}  // namespace infercache::cli
