// Users and groups as a configuration names them, and as the kernel reports them.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace infercache::server {

struct LocalPeers {
  bool everyone = true;               // whoever can open the socket
  std::vector<uint32_t> users = {};   // else these uids
  std::vector<uint32_t> groups = {};  // and these gids

  bool operator==(const LocalPeers&) const = default;
};

// Each text is "*" (everyone), a user (NAME or number) or a group ("@NAME" or "@number"). Names are
// looked up in the system's databases, which may ask the network. INVALID_ARGUMENT names the first
// text that is no such thing or is known to nobody, UNAVAILABLE the one that could not be looked
// up.
absl::StatusOr<LocalPeers> ResolvePeers(const std::vector<std::string>& texts);

}  // namespace infercache::server
