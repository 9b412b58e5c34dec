// The descriptors that recvmsg brought beside bytes.

#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstring>

#include "absl/functional/function_ref.h"

namespace infercache {

// Gives each to `take`, whose it is from then on.
inline void TakeReceivedDescriptors(msghdr& message, absl::FunctionRef<void(int fd)> take) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      take(fd);
    }
  }
}

}  // namespace infercache
