#include "client/cli/doctor_local.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/frame_channel.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "common/unique_fd.h"
#include "fmt/format.h"

// Since Linux 6.5; older C libraries do not name it.
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace infercache::cli {
namespace {

constexpr uint64_t kRequestId = 1;
// An answer is much smaller.
constexpr size_t kReadBudget = 1 << 20;

absl::StatusOr<UniqueFd> ConnectToSocket(const std::string& path) {
  sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  if (path.size() >= sizeof to.sun_path) {
    return absl::UnavailableError(fmt::format("{}: the path is too long", path));
  }
  std::copy(path.begin(), path.end(), to.sun_path);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid() || connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
    return absl::UnavailableError(fmt::format("{}: {}", path, strerror(errno)));
  }
  return fd;
}

// OK once `events` are there.
absl::Status Await(int socket, short events, absl::Time deadline) {
  pollfd wait = {socket, events, 0};
  const int64_t left_ms = absl::ToInt64Milliseconds(deadline - absl::Now());
  if (left_ms > 0 && poll(&wait, 1, static_cast<int>(std::min<int64_t>(left_ms, INT32_MAX))) > 0) {
    return absl::OkStatus();
  }
  return absl::DeadlineExceededError("no answer to a Hello");
}

absl::StatusOr<v1::Welcome> ToWelcome(const v1::LocalResponse& response) {
  if (response.code() != 0) {
    return absl::Status(static_cast<absl::StatusCode>(response.code()), response.message());
  }
  if (response.id() == kRequestId && response.has_welcome()) return response.welcome();
  return absl::DataLossError("the answer to a Hello is no Welcome");
}

// By kind of page: the namespaces that have it.
using NamespacesByKind = std::map<std::string, std::vector<std::string>>;

}  // namespace

absl::StatusOr<v1::Welcome> SayHello(const std::string& path, const v1::Hello& hello,
                                     absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  ASSIGN_OR_RETURN(const UniqueFd socket, ConnectToSocket(path));
  v1::LocalRequest request;
  request.set_id(kRequestId);
  *request.mutable_hello() = hello;
  FrameWriter writer;
  writer.Add(request.SerializeAsString());
  while (!writer.empty()) {
    RETURN_IF_ERROR(Await(socket.get(), POLLOUT, deadline));
    RETURN_IF_ERROR(writer.Flush(socket.get()).status());
  }

  FrameReader reader(kMaxFrameDescriptors);
  std::optional<absl::StatusOr<v1::Welcome>> welcome;
  // The descriptors that come with it are closed unread.
  const auto on_frame = [&welcome](std::string_view body, std::vector<UniqueFd>) {
    v1::LocalResponse response;
    welcome = response.ParseFromArray(body.data(), static_cast<int>(body.size()))
                  ? ToWelcome(response)
                  : absl::DataLossError("the answer to a Hello is no message");
    return absl::OkStatus();
  };
  while (!welcome) {
    RETURN_IF_ERROR(Await(socket.get(), POLLIN, deadline));
    const auto read = reader.Read(socket.get(), kReadBudget, on_frame);
    // A refusal comes with the end of the connection.
    if (!welcome) RETURN_IF_ERROR(read.status());
  }
  return *std::move(welcome);
}

absl::Status TryPeerPidfd() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return absl::ErrnoToStatus(errno, "socketpair");
  }
  const UniqueFd one(ends[0]), other(ends[1]);
  int pidfd = -1;
  socklen_t size = sizeof pidfd;
  if (getsockopt(one.get(), SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) != 0) {
    return absl::UnimplementedError(fmt::format("SO_PEERPIDFD: {}", strerror(errno)));
  }
  const UniqueFd owner(pidfd);
  return absl::OkStatus();
}

Finding LocalLaneFinding(const std::string& path, const std::string& namespace_name,
                         const absl::StatusOr<v1::Welcome>& welcome) {
  constexpr char kCheck[] = "local_lane";
  if (welcome.ok()) {
    const bool in_place = welcome->put_access() == v1::Welcome::PUT_ACCESS_IN_PLACE;
    const bool none = welcome->put_access() == v1::Welcome::PUT_ACCESS_NONE;
    return {kCheck, Level::kOk,
            fmt::format("{} opens a session in {}: this user reads in shared memory and {}", path,
                        namespace_name,
                        none       ? "may not store"
                        : in_place ? "stores in place"
                                   : "sends what it stores")};
  }
  const absl::Status& status = welcome.status();
  const std::string message(status.message());
  if (absl::IsNotFound(status)) {
    return {kCheck, Level::kOk,
            fmt::format("{} answers; no session was opened: {} (name one with --namespace)", path,
                        message)};
  }
  const std::string found = fmt::format("{} opens no session: {}", path, message);
  if (absl::IsPermissionDenied(status)) {
    return {kCheck, Level::kWarn, found,
            fmt::format("add this user, or a group of it, to local_users of {}; until then it has "
                        "gRPC, where a hit is a call",
                        namespace_name)};
  }
  if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status)) {
    return {kCheck, Level::kWarn, found,
            "state what the namespace demands with --fingerprint; if it is the version of the "
            "protocol, install the same release of both"};
  }
  if (absl::IsResourceExhausted(status)) {
    return {kCheck, Level::kWarn, found,
            "look at infercachectl stat: raise local.max_sessions, or the daemon's limit on open "
            "files"};
  }
  return {kCheck, Level::kWarn, found,
          "workers of this machine use gRPC meanwhile, where a hit is a call: look at the daemon's "
          "log and at the owner and mode of the socket"};
}

Finding PeerPidfdFinding(const absl::Status& tried) {
  constexpr char kCheck[] = "peer_pidfd";
  if (tried.ok()) {
    return {kCheck, Level::kOk, "the kernel tells when a worker dies, also in other containers"};
  }
  return {kCheck, Level::kWarn, std::string(tried.message()),
          "use Linux 6.5 or newer, or let workers share the daemon's PID namespace: otherwise the "
          "death of a worker shows only as the end of its connection, which a child that it left "
          "behind holds open"};
}

Finding ArenaPagesFinding(const v1::GetStatsResponse& stats) {
  constexpr char kCheck[] = "arena_pages";
  NamespacesByKind by_kind;
  for (const auto& ns : stats.namespaces()) by_kind[ns.page_kind()].push_back(ns.name());
  const std::string found =
      absl::StrJoin(by_kind, "; ", [](std::string* out, const NamespacesByKind::value_type& kind) {
        *out += fmt::format("{} ({})", kind.first, absl::StrJoin(kind.second, ", "));
      });
  if (!by_kind.contains("4k")) return {kCheck, Level::kOk, found};
  return {kCheck, Level::kWarn, found,
          "with 4 KiB pages every process that maps an arena pays 2 MiB of page tables per GiB and "
          "takes a page fault for each 4 KiB: see thp and hugetlb, then start the daemon again"};
}

}  // namespace infercache::cli
