#include "server/rpc/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "server/rpc/error.h"

namespace infercache::rpc {
namespace {

constexpr int kBacklog = 1024;

const sockaddr_in& AsIpv4(const sockaddr_storage& s) {
  return reinterpret_cast<const sockaddr_in&>(s);
}
const sockaddr_in6& AsIpv6(const sockaddr_storage& s) {
  return reinterpret_cast<const sockaddr_in6&>(s);
}
const sockaddr_un& AsUnix(const sockaddr_storage& s) {
  return reinterpret_cast<const sockaddr_un&>(s);
}
const sockaddr* AsSockaddr(const SocketAddress& a) {
  return reinterpret_cast<const sockaddr*>(&a.storage);
}

// The IPv4 address inside an IPv6 one (::ffff:a.b.c.d), which is how a dual-stack socket sees it.
std::optional<in_addr> MappedIpv4(const sockaddr_in6& address) {
  if (!IN6_IS_ADDR_V4MAPPED(&address.sin6_addr)) return std::nullopt;
  in_addr mapped;
  std::memcpy(&mapped, &address.sin6_addr.s6_addr[12], sizeof(mapped));
  return mapped;
}

std::string Ipv4ToString(const in_addr& address) {
  char text[INET_ADDRSTRLEN];
  return inet_ntop(AF_INET, &address, text, sizeof(text));
}

bool IsLoopback(const in_addr& address) { return (ntohl(address.s_addr) >> 24) == 127; }

absl::Status AddressError(std::string_view text, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("address \"", AbslView(text), "\": ", AbslView(what)));
}

absl::StatusOr<SocketAddress> ParseUnix(std::string_view text, std::string_view path) {
  SocketAddress result;
  auto& un = reinterpret_cast<sockaddr_un&>(result.storage);
  if (path.empty()) return AddressError(text, "the path is empty");
  if (path.size() >= sizeof(un.sun_path)) {
    return AddressError(text, absl::StrCat("the path has ", path.size(), " bytes, at most ",
                                           sizeof(un.sun_path) - 1, " are possible"));
  }
  un.sun_family = AF_UNIX;
  path.copy(un.sun_path, path.size());
  result.size = offsetof(sockaddr_un, sun_path) + path.size() + 1;
  return result;
}

absl::Status ListenError(const SocketAddress& address, std::string_view step, int error) {
  const std::string message = absl::StrCat("cannot listen on ", address.ToString(), ": ",
                                           AbslView(step), ": ", strerror(error));
  if (error == EADDRINUSE) return absl::AlreadyExistsError(message);
  return absl::FailedPreconditionError(message);
}

}  // namespace

bool SocketAddress::is_loopback() const {
  switch (family()) {
    case AF_UNIX:
      return true;
    case AF_INET:
      return IsLoopback(AsIpv4(storage).sin_addr);
    case AF_INET6: {
      const auto mapped = MappedIpv4(AsIpv6(storage));
      return mapped ? IsLoopback(*mapped) : IN6_IS_ADDR_LOOPBACK(&AsIpv6(storage).sin6_addr);
    }
    default:
      return false;
  }
}

std::string SocketAddress::ToString() const {
  if (family() == AF_UNIX) return absl::StrCat("unix:", AsUnix(storage).sun_path);
  if (family() == AF_INET) {
    return absl::StrCat(Ipv4ToString(AsIpv4(storage).sin_addr), ":",
                        ntohs(AsIpv4(storage).sin_port));
  }
  char text[INET6_ADDRSTRLEN];
  inet_ntop(AF_INET6, &AsIpv6(storage).sin6_addr, text, sizeof(text));
  return absl::StrCat("[", text, "]:", ntohs(AsIpv6(storage).sin6_port));
}

std::string SocketAddress::ToGrpcUri() const {
  if (family() == AF_UNIX) return ToString();
  if (family() == AF_INET) return absl::StrCat("ipv4:", ToString());
  const sockaddr_in6& v6 = AsIpv6(storage);
  if (const auto mapped = MappedIpv4(v6)) {
    return absl::StrCat("ipv4:", Ipv4ToString(*mapped), ":", ntohs(v6.sin6_port));
  }
  char text[INET6_ADDRSTRLEN];
  inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
  const std::string scope = v6.sin6_scope_id == 0 ? "" : absl::StrCat("%25", v6.sin6_scope_id);
  return absl::StrCat("ipv6:%5B", text, scope, "%5D:", ntohs(v6.sin6_port));
}

absl::StatusOr<SocketAddress> ParseAddress(std::string_view text) {
  constexpr std::string_view kUnix = "unix:";
  if (text.starts_with(kUnix)) return ParseUnix(text, text.substr(kUnix.size()));

  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return AddressError(text, "expected HOST:PORT or unix:PATH");
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (host.empty()) return AddressError(text, "the host is empty");
  if (!bracketed && host.find(':') != std::string_view::npos) {
    return AddressError(text, "an IPv6 address needs brackets, as in [::1]:7400");
  }
  uint32_t port;
  if (!absl::SimpleAtoi(AbslView(text.substr(colon + 1)), &port) || port > 65535) {
    return AddressError(text, "the port must be a number from 0 to 65535");
  }

  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(std::string(host).c_str(), absl::StrCat(port).c_str(), &hints, &found);
  if (error != 0) return AddressError(text, gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  SocketAddress result;
  std::memcpy(&result.storage, found->ai_addr, found->ai_addrlen);
  result.size = found->ai_addrlen;
  return result;
}

absl::StatusOr<ListeningSocket> Listen(const SocketAddress& address) {
  ListeningSocket result;
  if (address.family() == AF_UNIX) {
    const std::string path = AsUnix(address.storage).sun_path;
    ASSIGN_OR_RETURN(UnixListener listener, ListenOnUnixSocket(path, std::nullopt, kBacklog));
    result.fd = std::move(listener.fd);
    result.file = std::move(listener.file);
    result.address = address;
    return result;
  }
  result.fd = UniqueFd(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!result.fd.valid()) return ListenError(address, "socket", errno);
  // A restarted daemon gets its port although old connections linger in TIME_WAIT. A second
  // listener is an error all the same: that would take SO_REUSEPORT.
  const int on = 1;
  setsockopt(result.fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(result.fd.get(), AsSockaddr(address), address.size) != 0) {
    return ListenError(address, "bind", errno);
  }
  if (listen(result.fd.get(), kBacklog) != 0) return ListenError(address, "listen", errno);

  result.address.size = sizeof(result.address.storage);
  getsockname(result.fd.get(), reinterpret_cast<sockaddr*>(&result.address.storage),
              &result.address.size);
  return result;
}

}  // namespace infercache::rpc
