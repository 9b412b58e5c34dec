#include "bench/compare/own_daemon.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "bench/compare/die.h"
#include "bench/compare/spawn.h"
#include "common/unique_fd.h"

namespace infercache::bench {
namespace {

std::filesystem::path MakeDirectory() {
  std::string path = (std::filesystem::temp_directory_path() / "infercache-bench-XXXXXX").string();
  if (mkdtemp(path.data()) == nullptr) Die(absl::StrCat("mkdtemp: ", std::strerror(errno)));
  return path;
}

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

}  // namespace

OwnDaemon::OwnDaemon(const std::string& binary, const std::string& page_kind, uint64_t arena_bytes,
                     const std::vector<std::string>& more)
    : directory_(MakeDirectory()) {
  const std::string notify_path = (directory_ / "notify").string();
  const UniqueFd notifications = ListenForNotifications(notify_path);
  setenv("NOTIFY_SOCKET", notify_path.c_str(), 1);
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::string> words = {binary,
                                    "--capacity",
                                    absl::StrCat(arena_bytes),
                                    "--default-quota",
                                    absl::StrCat(arena_bytes),
                                    "--arena-pages",
                                    page_kind,
                                    "--grpc-listen",
                                    "127.0.0.1:0",
                                    "--http-listen",
                                    "127.0.0.1:0",
                                    "--socket",
                                    socket_path(),
                                    "--log-level",
                                    "error"};
  words.insert(words.end(), more.begin(), more.end());
  pid_ = Spawn(words);
  AwaitReady(notifications);
  start_took_ = std::chrono::steady_clock::now() - start;
}

OwnDaemon::~OwnDaemon() {
  kill(pid_, SIGTERM);
  int status;
  if (waitpid(pid_, &status, 0) != pid_ || status != 0) Die("a daemon did not stop cleanly");
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

}  // namespace infercache::bench
