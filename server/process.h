// What the daemon leaves in the file system, and what it asks of it.

#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "common/mutex.h"

namespace infercache::server {

// The files to remove when the process ends, unless another process has put its own in their place.
// Thread-safe.
class ExitFiles {
 public:
  ExitFiles() = default;
  ~ExitFiles() { RemoveAll(); }
  ExitFiles(const ExitFiles&) = delete;
  ExitFiles& operator=(const ExitFiles&) = delete;

  // Replaces `path` in one step (readers see all of `content` or the file before) and removes it at
  // the end. Errors are the system's and name the path.
  absl::Status Write(const std::string& path, std::string_view content) ABSL_LOCKS_EXCLUDED(mu_);
  void RemoveAll() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct File {
    std::string path;
    dev_t device;
    ino_t inode;
  };

  Mutex mu_;
  std::vector<File> files_ ABSL_GUARDED_BY(mu_);
};

// Lets the process open as many files as the system permits it. Returns a warning if those are
// fewer than `needed`, else "".
std::string RaiseFileLimit(uint64_t needed);

struct SocketChoice {
  std::string path;     // empty = none
  std::string warning;  // why there is none although the default was asked for
};

// What the option `socket` means: "auto" is the default path, whose directory is made; if that does
// not work the daemon goes on without. Any other text stands for itself.
SocketChoice ChooseSocket(std::string_view option, uid_t uid, const char* xdg_runtime_dir);

}  // namespace infercache::server
