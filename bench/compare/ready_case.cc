// How long a daemon takes from its start until it serves, for each GiB of arena it populates.

#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/compare/cases.h"
#include "bench/compare/die.h"
#include "common/unique_fd.h"

namespace infercache::bench {
namespace {

constexpr double kGiB = 1 << 30;

// A directory of its own, removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string path =
        (std::filesystem::temp_directory_path() / "infercache-ready-XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) Die("mkdtemp: " + std::string(std::strerror(errno)));
    path_ = path;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// Where systemd would listen: a daemon sends READY=1 there, to the path in NOTIFY_SOCKET.
UniqueFd ListenForNotifications(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) Die("socket path too long: " + path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    Die(absl::StrCat("cannot bind ", path, ": ", std::strerror(errno)));
  }
  const timeval patience = {.tv_sec = 120, .tv_usec = 0};
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return socket;
}

void AwaitReady(const UniqueFd& socket) {
  std::string message(4096, '\0');
  while (true) {
    const ssize_t n = recv(socket.get(), message.data(), message.size(), 0);
    if (n < 0) Die("a daemon was not ready in time");
    if (std::string_view(message.data(), static_cast<size_t>(n)).starts_with("READY=1")) return;
  }
}

pid_t Spawn(const std::vector<std::string>& words) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t pid;
  if (const int error =
          posix_spawn(&pid, arguments[0], nullptr, nullptr, arguments.data(), environ)) {
    Die(absl::StrCat("cannot start ", words[0], ": ", std::strerror(error)));
  }
  return pid;
}

double SecondsToReady(const std::string& binary, uint64_t arena_bytes) {
  const TemporaryDirectory directory;
  const std::string notify_path = directory / "notify";
  const UniqueFd notifications = ListenForNotifications(notify_path);
  setenv("NOTIFY_SOCKET", notify_path.c_str(), 1);
  const auto start = std::chrono::steady_clock::now();
  const pid_t pid =
      Spawn({binary, "--capacity", absl::StrCat(arena_bytes), "--default-quota",
             absl::StrCat(arena_bytes), "--grpc-listen", "127.0.0.1:0", "--http-listen",
             "127.0.0.1:0", "--socket", directory / "socket", "--log-level", "error"});
  AwaitReady(notifications);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  kill(pid, SIGTERM);
  int status;
  if (waitpid(pid, &status, 0) != pid || status != 0) Die("the daemon did not stop cleanly");
  return took.count();
}

}  // namespace

void TimeToReady(const Context& context) {
  const uint64_t large = uint64_t{context.plan.quick ? 128u : 2048u} << 20;
  const uint64_t small = uint64_t{16} << 20;
  std::vector<double> per_gib, start_up;
  for (int round = 0; round < context.plan.rounds; ++round) {
    const double base = SecondsToReady(context.servers.daemon_binary, small);
    const double all = SecondsToReady(context.servers.daemon_binary, large);
    start_up.push_back(base);
    per_gib.push_back((all - base) / (static_cast<double>(large - small) / kGiB));
  }
  std::sort(per_gib.begin(), per_gib.end());
  std::sort(start_up.begin(), start_up.end());
  const size_t middle = per_gib.size() / 2;
  Row row;
  row.name = "ready/4k";
  row.ours = per_gib[middle] * 1000;
  row.unit = "ms/GiB";
  row.note = absl::StrFormat(
      "4 KiB pages, %.0f-%.0f ms; %.0f ms more to start with 16 MiB; hugetlb: infercached has no "
      "such option yet",
      per_gib.front() * 1000, per_gib.back() * 1000, start_up[middle] * 1000);
  context.rows.Print(row);
}

}  // namespace infercache::bench
