// Who may administrate without a credential, because of who the kernel says they are.

#pragma once

#include <cstdint>

#include "server/local_peers.h"

namespace infercache::server {

// Whether the process that connected `socket`, a Unix socket, is of user `own` or one of `admins`.
// False for a uid that has no number in this user namespace, and if the kernel does not say.
bool MayAdminister(int socket, const LocalPeers& admins, uint32_t own);

}  // namespace infercache::server
