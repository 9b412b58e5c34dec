#include "server/socket_admins.h"

#include "server/local/peer.h"
#include "server/store_options.h"

namespace infercache::server {

bool MayAdminister(int socket, const LocalPeers& admins, uint32_t own) {
  const auto peer = local::IdentifyPeer(socket);
  if (!peer.ok()) return false;
  store::LocalAccess access = ToAccess(admins);
  access.users.push_back(own);
  return local::Permits(access, *peer, local::ReadOverflowIds());
}

}  // namespace infercache::server
