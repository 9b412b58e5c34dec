// Who is at the other end of a Unix socket, and when it dies. What the kernel says, never the peer.

#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/unique_fd.h"
#include "server/store/namespace.h"

namespace infercache::local {

// What the kernel calls an id that has no number in this user namespace.
struct OverflowIds {
  uint32_t user = 65534;
  uint32_t group = 65534;
};
// Of this machine; 65534 if it does not say.
OverflowIds ReadOverflowIds();

// Of the process that connected. A pid is for people to read: it names nothing, not even the
// process once it is gone.
struct Peer {
  uint32_t user = 0;
  uint32_t group = 0;
  std::vector<uint32_t> groups;  // supplementary
  int32_t pid = 0;               // 0 = of another PID namespace
  // Readable once the process is gone. Invalid: the kernel has no such witness to offer.
  UniqueFd process;
};

// NOT_FOUND: the process is gone. RESOURCE_EXHAUSTED: out of descriptors or memory. UNAVAILABLE
// names the system call: `socket` is no connected Unix socket.
absl::StatusOr<Peer> IdentifyPeer(int socket);

// Its user alone, which costs one call; what the kernel calls an unknown one if it does not say.
uint32_t PeerUser(int socket);

// Whether the peer may send descriptors; if not, it gets EPERM. A listener's connections inherit
// it. Without effect before Linux 6.16.
void PermitDescriptors(int socket, bool permit);

// An id that is mapped to nothing matches no list: it may be anybody's.
bool Permits(const store::LocalAccess& access, const Peer& peer, const OverflowIds& overflow);

// Whether the process of `process` is gone.
bool IsGone(const UniqueFd& process);

}  // namespace infercache::local
