#include "client/cli/doctor_daemon.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_split.h"
#include "client/cli/units.h"
#include "client/src/admin_client.h"
#include "client/src/channel.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"
#include "fmt/format.h"

namespace infercache::cli {
namespace {

constexpr std::string_view kUnixPrefix = "unix:";

absl::Status Refused(const std::string& address, const std::string& why) {
  return absl::UnavailableError(fmt::format("{}: {}", address, why));
}

struct HostPort {
  std::string host, port;
};

// "host:port" or "[v6]:port". REQUIRES: a colon.
HostPort SplitHostPort(const std::string& address) {
  const size_t colon = address.rfind(':');
  HostPort split{address.substr(0, colon), address.substr(colon + 1)};
  if (split.host.starts_with('[') && split.host.ends_with(']')) {
    split.host = split.host.substr(1, split.host.size() - 2);
  }
  return split;
}

absl::Status ConnectTo(const sockaddr* to, socklen_t size, const std::string& address,
                       absl::Duration limit) {
  const UniqueFd fd(socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Refused(address, strerror(errno));
  if (connect(fd.get(), to, size) == 0) return absl::OkStatus();
  if (errno != EINPROGRESS) return Refused(address, strerror(errno));
  pollfd wait = {fd.get(), POLLOUT, 0};
  const int timeout_ms = static_cast<int>(
      std::clamp<int64_t>(absl::ToInt64Milliseconds(limit), 1, int64_t{INT32_MAX}));
  const int ready = poll(&wait, 1, timeout_ms);
  if (ready < 0) return Refused(address, strerror(errno));
  if (ready == 0) return absl::DeadlineExceededError(fmt::format("{}: no answer", address));
  int error = 0;
  socklen_t error_size = sizeof error;
  getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &error_size);
  return error == 0 ? absl::OkStatus() : Refused(address, strerror(error));
}

absl::Status DialUnix(const std::string& address, absl::Duration limit) {
  const std::string path = address.substr(kUnixPrefix.size());
  sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  if (path.size() >= sizeof to.sun_path) return Refused(address, "the path is too long");
  std::copy(path.begin(), path.end(), to.sun_path);
  return ConnectTo(reinterpret_cast<const sockaddr*>(&to), sizeof to, address, limit);
}

// Where to dial what the daemon calls `listening`, or nothing if that cannot be reached from here.
std::optional<std::string> DialedAddress(const AskedEndpoint& endpoint,
                                         const std::string& listening) {
  if (listening.starts_with(kUnixPrefix)) {
    return endpoint.local ? std::optional(listening) : std::nullopt;
  }
  const HostPort address = SplitHostPort(listening);
  const bool wildcard = address.host == "0.0.0.0" || address.host == "::";
  if (!wildcard) {
    const auto resolved = ResolveEndpoint(listening);
    const bool loopback = resolved.ok() && resolved->local;
    return endpoint.local || !loopback ? std::optional(listening) : std::nullopt;
  }
  if (endpoint.text.starts_with(kUnixPrefix)) {
    return fmt::format("{}:{}", address.host == "::" ? "[::1]" : "127.0.0.1", address.port);
  }
  return endpoint.text.substr(0, endpoint.text.rfind(':') + 1) + address.port;
}

Finding CheckLane(const AskedEndpoint& endpoint, const std::string& check,
                  const std::string& listening, const std::string& advice, const Dial& dial) {
  const auto address = DialedAddress(endpoint, listening);
  if (!address) {
    return {check, Level::kOk,
            fmt::format("{} is for the daemon's own machine: not tried from here", listening)};
  }
  const absl::Status status = dial(*address);
  if (status.ok()) return {check, Level::kOk, fmt::format("{} accepts connections", *address)};
  return {check, Level::kWarn, std::string(status.message()), advice};
}

}  // namespace

Finding EndpointFinding(const AskedEndpoint& endpoint,
                        const absl::StatusOr<v1::GetInfoResponse>& info, absl::Duration took) {
  constexpr char kCheck[] = "endpoint";
  if (info.ok()) {
    const std::string found =
        fmt::format("{} answers in {}: infercached {}, up {}", endpoint.text, FormatElapsed(took),
                    info->version(), FormatElapsed(absl::Milliseconds(info->uptime_ms())));
    if (!info->draining()) return {kCheck, Level::kOk, found};
    return {kCheck, Level::kWarn, found + ", draining: it refuses puts and ends soon",
            "wait for it to end, and start it again"};
  }
  const absl::Status& status = info.status();
  const std::string message(status.message());
  if (IsUnreachable(status)) {
    return {kCheck, Level::kFail, fmt::format("nobody answers at {}: {}", endpoint.text, message),
            "start infercached there, or name its address with --endpoint or INFERCACHE_ENDPOINT; "
            "if it serves TLS, say --tls or --tls-ca"};
  }
  if (absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status)) {
    return {kCheck, Level::kWarn,
            fmt::format("{} answers, but does not say what it is: {}", endpoint.text, message),
            "give --token-file or --tls-cert with a credential that has `admin`, or ask as the "
            "daemon's user over its Unix socket: else its other addresses, its capacity and its "
            "version are not looked at"};
  }
  return {kCheck, Level::kFail,
          fmt::format("{} answers, but not as an infercached: {} ({})", endpoint.text, message,
                      absl::StatusCodeToString(status.code())),
          "look at what listens there, and at the daemon's log"};
}

absl::Status DialAddress(const std::string& address, absl::Duration limit) {
  if (address.starts_with(kUnixPrefix)) return DialUnix(address, limit);
  const HostPort target = SplitHostPort(address);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(target.host.c_str(), target.port.c_str(), &hints, &found);
  if (error != 0) return Refused(address, gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  absl::Status status = Refused(address, "the name has no address");
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    status = ConnectTo(entry->ai_addr, entry->ai_addrlen, address, limit);
    if (status.ok()) break;
  }
  return status;
}

std::vector<Finding> CheckLanes(const AskedEndpoint& endpoint, const v1::GetInfoResponse& info,
                                const Dial& dial) {
  std::vector<Finding> findings;
  const std::vector<std::string> grpc = absl::StrSplit(info.grpc_address(), ',', absl::SkipEmpty());
  for (const std::string& address : grpc) {
    // The socket is named on its own below.
    if (address.starts_with(kUnixPrefix)) continue;
    findings.push_back(CheckLane(endpoint, "grpc", address,
                                 "the daemon listens there: look at firewalls and published ports",
                                 dial));
  }
  if (!info.socket_path().empty()) {
    findings.push_back(CheckLane(
        endpoint, "unix_socket", fmt::format("{}{}", kUnixPrefix, info.socket_path()),
        "this user needs write permission on the socket (see its owner and mode); if the daemon "
        "runs in a container, mount the socket's directory into this one",
        dial));
  }
  if (!info.http_address().empty()) {
    findings.push_back(CheckLane(
        endpoint, "http", info.http_address(),
        "metrics and health probes come from there: look at firewalls and published ports", dial));
  }
  return findings;
}

Subject DescribeSubject(const Machine& machine, const v1::GetInfoResponse& info,
                        const v1::GetStatsResponse& stats) {
  Subject subject = FindSubject(machine, info.pid());
  subject.capacity_bytes = info.capacity_bytes();
  subject.arena_pages = info.arena_pages();
  subject.lock_memory = info.lock_memory();
  for (const auto& ns : stats.namespaces()) {
    if (ns.page_kind() == "hugetlb") subject.hugetlb_bytes += ns.quota_bytes();
  }
  return subject;
}

Finding CheckVersion(std::string_view own_version, const v1::GetInfoResponse& info) {
  constexpr char kCheck[] = "version";
  if (info.version() == own_version) {
    return {kCheck, Level::kOk,
            fmt::format("daemon and infercachectl are {} (daemon's revision {})", own_version,
                        info.revision())};
  }
  return {kCheck, Level::kWarn,
          fmt::format("the daemon is {} (revision {}), infercachectl is {}", info.version(),
                      info.revision(), own_version),
          "install the same release of both: what only one of them knows is refused with "
          "UNIMPLEMENTED, or left out"};
}

}  // namespace infercache::cli
