#include "common/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace infercache {
namespace {

struct UnixAddress {
  sockaddr_un storage = {};
  socklen_t size = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

absl::StatusOr<UnixAddress> MakeAddress(const std::string& path) {
  UnixAddress address;
  if (path.empty()) return absl::InvalidArgumentError("the path of a socket is empty");
  if (path.size() >= sizeof address.storage.sun_path) {
    return absl::InvalidArgumentError(
        absl::StrCat("socket path \"", path, "\" has ", path.size(), " bytes, at most ",
                     sizeof address.storage.sun_path - 1, " are possible"));
  }
  address.storage.sun_family = AF_UNIX;
  path.copy(address.storage.sun_path, path.size());
  address.size = offsetof(sockaddr_un, sun_path) + path.size() + 1;
  return address;
}

// What connecting to `address` says: 0 or the error's number.
int TryConnect(const UnixAddress& address) {
  const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) return errno;
  return connect(probe.get(), address.get(), address.size) == 0 ? 0 : errno;
}

// Makes way for bind(): removes a socket file without a listener.
absl::Status RemoveStale(const std::string& path, const UnixAddress& address) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return absl::OkStatus();  // nothing, or bind() will say why
  if (!S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot listen on unix:", path, ": the file exists and is no socket"));
  }
  const int error = TryConnect(address);
  if (error == ECONNREFUSED) {
    unlink(path.c_str());
    return absl::OkStatus();
  }
  if (error == ENOENT) return absl::OkStatus();  // gone meanwhile
  if (error == 0 || error == EAGAIN) {           // EAGAIN: its backlog is full
    return absl::AlreadyExistsError(
        absl::StrCat("cannot listen on unix:", path, ": another process listens there"));
  }
  // A socket of another kind or of another user: somebody may well be behind it.
  return absl::FailedPreconditionError(
      absl::StrCat("cannot listen on unix:", path,
                   ": the socket there may be in use (connect: ", strerror(error), ")"));
}

absl::Status ListenError(const std::string& path, const char* step) {
  const int error = errno;
  const std::string message =
      absl::StrCat("cannot listen on unix:", path, ": ", step, ": ", strerror(error));
  if (error == EADDRINUSE) return absl::AlreadyExistsError(message);
  return absl::FailedPreconditionError(message);
}

}  // namespace

SocketFile::SocketFile(std::string path) : path_(std::move(path)) {
  struct stat info;
  if (lstat(path_.c_str(), &info) == 0) {
    device_ = info.st_dev;
    inode_ = info.st_ino;
  }
}

SocketFile::SocketFile(SocketFile&& other) noexcept
    : path_(std::exchange(other.path_, {})), device_(other.device_), inode_(other.inode_) {}

SocketFile& SocketFile::operator=(SocketFile&& other) noexcept {
  if (this != &other) {
    Remove();
    path_ = std::exchange(other.path_, {});
    device_ = other.device_;
    inode_ = other.inode_;
  }
  return *this;
}

SocketFile::~SocketFile() { Remove(); }

void SocketFile::Remove() {
  struct stat info;
  if (path_.empty() || lstat(path_.c_str(), &info) != 0) return;
  if (info.st_dev == device_ && info.st_ino == inode_) unlink(path_.c_str());
}

absl::StatusOr<UnixListener> ListenOnUnixSocket(const std::string& path,
                                                std::optional<uint32_t> mode, int backlog) {
  ASSIGN_OR_RETURN(const UnixAddress address, MakeAddress(path));
  RETURN_IF_ERROR(RemoveStale(path, address));
  UnixListener result;
  result.fd = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!result.fd.valid()) return ListenError(path, "socket");
  // The file begins with the socket's own mode. The umask would do as well, but it is every
  // thread's.
  if (mode && fchmod(result.fd.get(), 0600) != 0) return ListenError(path, "fchmod");
  if (bind(result.fd.get(), address.get(), address.size) != 0) return ListenError(path, "bind");
  result.file = SocketFile(path);
  if (mode && chmod(path.c_str(), *mode) != 0) return ListenError(path, "chmod");
  if (listen(result.fd.get(), backlog) != 0) return ListenError(path, "listen");
  return result;
}

}  // namespace infercache
