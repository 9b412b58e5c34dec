// The real infercached as a child process, for tests: on ports that the kernel chooses, with a Unix
// socket and all its files in a temporary directory. Nothing here waits for time to pass: start-up
// ends with the daemon's "ready" line, an exit with the kernel's word.
//
// Use a DaemonProcess from one thread, the one that started it: the daemon is killed when that
// thread ends, so that a crashed test leaves nothing behind.

#pragma once

#include <sys/types.h>

#include <chrono>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/unique_fd.h"

namespace infercache::e2e {

inline constexpr int kConfigError = 78;  // EX_CONFIG of sysexits.h

// A directory that is removed with everything in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  // Writes a file into it and returns its path.
  std::string File(const std::string& name, const std::string& content) const;

 private:
  std::string path_;
};

// The path of infercached.
std::string DaemonBinary();

// What a process printed and how it ended.
struct Finished {
  int exit_code = -1;  // 128 + signal if one ended it
  std::string out;
  std::string err;
};

// Runs `binary` to its end. DEADLINE_EXCEEDED: it was killed after `limit`.
absl::StatusOr<Finished> RunToEnd(const std::string& binary,
                                  const std::vector<std::string>& arguments,
                                  const std::map<std::string, std::string>& environment = {},
                                  std::chrono::seconds limit = std::chrono::seconds(60));
// infercached, without the arguments that DaemonProcess adds.
absl::StatusOr<Finished> RunDaemonToEnd(const std::vector<std::string>& arguments,
                                        const std::map<std::string, std::string>& environment = {});

class DaemonProcess {
 public:
  struct Options {
    // After those of the harness, so they win: ports 0, socket, --capacity 64MiB, ready file.
    std::vector<std::string> arguments = {};
    std::string config = {};  // YAML; empty = no file
    std::map<std::string, std::string> environment = {};
    // Start returns as soon as this is in the log, and knows no address. Empty = once it serves.
    std::string until = {};
  };

  // Returns once it serves. FAILED_PRECONDITION with all it logged: it exited, or was not ready in
  // 30 s.
  static absl::StatusOr<std::unique_ptr<DaemonProcess>> Start(Options options);
  static absl::StatusOr<std::unique_ptr<DaemonProcess>> Start() { return Start(Options()); }
  // SIGKILL if it still runs.
  ~DaemonProcess();
  DaemonProcess(const DaemonProcess&) = delete;
  DaemonProcess& operator=(const DaemonProcess&) = delete;

  pid_t pid() const { return pid_; }
  // As bound; empty = none.
  const std::string& grpc_address() const { return grpc_address_; }
  const std::string& http_address() const { return http_address_; }
  const std::string& socket_path() const { return socket_path_; }
  const TemporaryDirectory& directory() const { return directory_; }

  void Signal(int signal) const;
  // Its exit code, or 128 + signal; nullopt: it still runs after `limit`.
  std::optional<int> Wait(std::chrono::milliseconds limit = std::chrono::seconds(30));
  // SIGTERM and Wait.
  std::optional<int> Stop();

  // All it wrote to standard error so far.
  std::string log() const ABSL_LOCKS_EXCLUDED(mu_);
  // True once a line of the log holds `text`; false after `limit`, or when the log ended without.
  bool WaitForLog(std::string_view text,
                  std::chrono::milliseconds limit = std::chrono::seconds(30)) {
    return WaitForAny({text}, limit);
  }

 private:
  DaemonProcess() = default;
  absl::Status Launch(const Options& options);
  absl::Status ReadAddresses();
  void ReadLog();
  bool WaitForAny(std::initializer_list<std::string_view> texts, std::chrono::milliseconds limit)
      ABSL_LOCKS_EXCLUDED(mu_);

  TemporaryDirectory directory_;
  pid_t pid_ = -1;
  std::optional<int> exit_code_;
  std::string grpc_address_;
  std::string http_address_;
  std::string socket_path_;

  UniqueFd log_fd_;
  std::thread log_reader_;
  mutable Mutex mu_;
  CondVar log_grew_;
  std::string log_ ABSL_GUARDED_BY(mu_);
  bool log_ended_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace infercache::e2e
