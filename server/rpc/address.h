// Socket addresses as the configuration writes them, and listening sockets on them.

#pragma once

#include <sys/socket.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/unique_fd.h"
#include "common/unix_socket.h"

namespace infercache::rpc {

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t size = 0;

  int family() const { return storage.ss_family; }
  // 127/8, ::1 (also as IPv4 mapped into IPv6) or a Unix socket.
  bool is_loopback() const;
  // "127.0.0.1:7400", "[::1]:7400", "unix:/path".
  std::string ToString() const;
  // As gRPC names a peer at this address: "ipv4:127.0.0.1:7400", "ipv6:%5B::1%5D:7400".
  std::string ToGrpcUri() const;
};

// "host:port", "[v6]:port" or "unix:/path". A host name is resolved, its first address counts.
// INVALID_ARGUMENT names the text and what is wrong with it.
absl::StatusOr<SocketAddress> ParseAddress(std::string_view text);

struct ListeningSocket {
  UniqueFd fd;            // non-blocking, close-on-exec
  SocketAddress address;  // as bound
  SocketFile file;        // of a Unix socket
};

// Never shares a port. A socket file nobody listens on any more is replaced. ALREADY_EXISTS:
// somebody listens there; FAILED_PRECONDITION: the address cannot be bound. Both name the address.
absl::StatusOr<ListeningSocket> Listen(const SocketAddress& address);

}  // namespace infercache::rpc
