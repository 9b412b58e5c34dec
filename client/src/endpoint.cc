#include "client/src/endpoint.h"

#include <arpa/inet.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace infercache {
namespace {

constexpr char kEndpointVariable[] = "INFERCACHE_ENDPOINT";
constexpr char kDefaultEndpoint[] = "127.0.0.1:7400";
constexpr std::string_view kUnixPrefix = "unix:";
constexpr std::string_view kGrpcPrefix = "grpc+";
constexpr char kSystemSocket[] = "/run/infercache/infercached.sock";
constexpr char kUserSocket[] = "/infercache/infercached.sock";  // in $XDG_RUNTIME_DIR

absl::Status BadEndpoint(const std::string& endpoint, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "endpoint '", endpoint, "': ", why, "; expected HOST:PORT, unix:PATH or grpc+unix:PATH"));
}

bool IsLoopback(const std::string& host) {
  if (absl::EqualsIgnoreCase(host, "localhost")) return true;
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::StatusOr<Endpoint> ResolveUnix(const std::string& endpoint, std::string path, Lane lane) {
  if (path.starts_with("//")) path.erase(0, 2);  // unix:///run/x is unix:/run/x
  if (path.empty()) return BadEndpoint(endpoint, "the path is empty");
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return BadEndpoint(endpoint, absl::StrCat("the path is longer than ",
                                              sizeof(sockaddr_un::sun_path) - 1, " bytes"));
  }
  return Endpoint{.text = endpoint,
                  .target = absl::StrCat("unix:", path),
                  .socket_path = path,
                  .local = true,
                  .lane = lane};
}

bool IsUsableSocket(const std::string& path) {
  struct stat found;
  return stat(path.c_str(), &found) == 0 && S_ISSOCK(found.st_mode) &&
         access(path.c_str(), R_OK | W_OK) == 0;
}

}  // namespace

// Where a daemon puts its socket by itself: one of this user's before the system's.
std::string DefaultEndpoint(uid_t uid, const char* xdg_runtime_dir) {
  if (uid != 0 && xdg_runtime_dir != nullptr && *xdg_runtime_dir != '\0') {
    const std::string path = absl::StrCat(xdg_runtime_dir, kUserSocket);
    if (IsUsableSocket(path)) return absl::StrCat("unix:", path);
  }
  if (IsUsableSocket(kSystemSocket)) return absl::StrCat("unix:", kSystemSocket);
  return kDefaultEndpoint;
}

absl::StatusOr<Endpoint> ResolveEndpoint(const std::string& endpoint) {
  if (endpoint.empty()) {
    const char* from_environment = std::getenv(kEndpointVariable);
    const bool set = from_environment != nullptr && *from_environment != '\0';
    return ResolveEndpoint(set ? from_environment
                               : DefaultEndpoint(geteuid(), std::getenv("XDG_RUNTIME_DIR")));
  }
  if (endpoint.starts_with(kUnixPrefix)) {
    return ResolveUnix(endpoint, endpoint.substr(kUnixPrefix.size()), Lane::kLocal);
  }
  if (endpoint.starts_with(kGrpcPrefix)) {
    const std::string rest = endpoint.substr(kGrpcPrefix.size());
    if (!rest.starts_with(kUnixPrefix)) return BadEndpoint(endpoint, "no Unix socket after grpc+");
    return ResolveUnix(endpoint, rest.substr(kUnixPrefix.size()), Lane::kRemote);
  }
  const size_t colon = endpoint.rfind(':');
  if (colon == std::string::npos) return BadEndpoint(endpoint, "there is no port");
  int port = 0;
  const std::string port_text = endpoint.substr(colon + 1);
  if (!std::all_of(port_text.begin(), port_text.end(), absl::ascii_isdigit) ||
      !absl::SimpleAtoi(port_text, &port) || port < 1 || port > 65'535) {
    return BadEndpoint(endpoint, absl::StrCat("'", port_text, "' is no port"));
  }
  std::string host = endpoint.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
    in6_addr v6;
    if (inet_pton(AF_INET6, host.c_str(), &v6) != 1) {
      return BadEndpoint(endpoint, absl::StrCat("'", host, "' is no IPv6 address"));
    }
  } else if (host.empty() || !std::all_of(host.begin(), host.end(), [](unsigned char c) {
               return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_';
             })) {
    return BadEndpoint(endpoint, absl::StrCat("'", host, "' is no host name or address"));
  }
  return Endpoint{.text = endpoint,
                  .target = absl::StrCat("dns:///", endpoint),
                  .socket_path = {},
                  .local = IsLoopback(host)};
}

}  // namespace infercache
