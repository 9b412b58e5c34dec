// Filesystem Unix sockets to listen on: their file appears with the right mode, replaces nothing
// that is alive, and goes away with its owner.

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace infercache {

// A socket file that this process made; removes it on destruction unless another one took its
// place. Movable; not thread-safe.
class SocketFile {
 public:
  SocketFile() = default;
  explicit SocketFile(std::string path);
  SocketFile(SocketFile&& other) noexcept;
  SocketFile& operator=(SocketFile&& other) noexcept;
  ~SocketFile();

 private:
  void Remove();

  std::string path_;
  uint64_t device_ = 0;
  uint64_t inode_ = 0;
};

struct UnixListener {
  UniqueFd fd;  // non-blocking, close-on-exec
  SocketFile file;
};

// Listens on a stream socket at `path`, whose file has `mode` before anybody can connect (none:
// what the umask leaves). A socket file nobody listens on any more is replaced. INVALID_ARGUMENT:
// the path is empty or too long; ALREADY_EXISTS: somebody listens there; FAILED_PRECONDITION: it
// cannot be bound, or what lies there is no socket. All name the path.
absl::StatusOr<UnixListener> ListenOnUnixSocket(const std::string& path,
                                                std::optional<uint32_t> mode, int backlog);

}  // namespace infercache
