// What a user calls a daemon, and how it is reached.

#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "infercache/client.h"

namespace infercache {

struct Endpoint {
  std::string text;         // as the user wrote it, defaults applied
  std::string target;       // what gRPC calls it
  std::string socket_path;  // of a Unix socket
  bool local = false;  // a Unix socket or a loopback address: what is said there stays on this host
  Lane lane = Lane::kRemote;  // that clients take; administration always goes over gRPC
};

// Empty = $INFERCACHE_ENDPOINT if set, else DefaultEndpoint(). INVALID_ARGUMENT names what is
// wrong.
absl::StatusOr<Endpoint> ResolveEndpoint(const std::string& endpoint);

// The socket at the daemon's default place if there is one, else 127.0.0.1:7400.
std::string DefaultEndpoint(uid_t uid, const char* xdg_runtime_dir);

}  // namespace infercache
