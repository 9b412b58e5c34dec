#include "server/process.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "common/unique_fd.h"
#include "server/text.h"

namespace infercache::server {
namespace {

absl::Status SystemError(std::string_view what, const std::string& path) {
  const int error = errno;
  return absl::ErrnoToStatus(error, Cat(what, " ", path));
}

}  // namespace

absl::Status ExitFiles::Write(const std::string& path, std::string_view content) {
  const std::string temporary = Cat(path, ".", getpid());
  struct stat written;
  {
    const UniqueFd fd(
        open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644));
    if (!fd.valid()) return SystemError("cannot write", temporary);
    // The process's umask is for sockets; these files are for everyone to read.
    if (fchmod(fd.get(), 0644) != 0 || fstat(fd.get(), &written) != 0 ||
        write(fd.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size())) {
      const absl::Status status = SystemError("cannot write", temporary);
      unlink(temporary.c_str());
      return status;
    }
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    const absl::Status status = SystemError("cannot replace", path);
    unlink(temporary.c_str());
    return status;
  }
  MutexLock lock(&mu_);
  files_.push_back({.path = path, .device = written.st_dev, .inode = written.st_ino});
  return absl::OkStatus();
}

void ExitFiles::RemoveAll() {
  MutexLock lock(&mu_);
  for (const File& file : files_) {
    struct stat found;
    if (lstat(file.path.c_str(), &found) != 0) continue;
    if (found.st_dev == file.device && found.st_ino == file.inode) unlink(file.path.c_str());
  }
  files_.clear();
}

std::string RaiseFileLimit(uint64_t needed) {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return "";
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur >= needed) return "";
  return Cat("at most ", limit.rlim_cur, " files may be open (RLIMIT_NOFILE); ", needed,
             " are needed for grpc.max_connections and local.max_sessions");
}

SocketChoice ChooseSocket(std::string_view option, uid_t uid, const char* xdg_runtime_dir) {
  if (option != "auto") return {std::string(option), ""};
  std::string directory = "/run/infercache";
  mode_t mode = 0755;
  if (uid != 0) {
    if (xdg_runtime_dir == nullptr || *xdg_runtime_dir == '\0') {
      return {"", "no Unix socket: XDG_RUNTIME_DIR is not set and no --socket was given"};
    }
    directory = Cat(xdg_runtime_dir, "/infercache");
    mode = 0700;
  }
  // The umask may be stricter than what a public directory needs.
  const bool made = mkdir(directory.c_str(), mode) == 0;
  if (made && chmod(directory.c_str(), mode) != 0) {
    return {"", Cat("no Unix socket: ", directory, ": ", strerror(errno))};
  }
  if (!made && errno != EEXIST) {
    return {"", Cat("no Unix socket: cannot make ", directory, ": ", strerror(errno))};
  }
  if (access(directory.c_str(), W_OK) != 0) {
    return {"", Cat("no Unix socket: ", directory, ": ", strerror(errno))};
  }
  return {Cat(directory, "/infercached.sock"), ""};
}

}  // namespace infercache::server
