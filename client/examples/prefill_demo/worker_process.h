// A worker as a process of its own: this program, executed again.

#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace infercache::demo {

// Not thread-safe. The destructor ends a worker that still runs.
class WorkerProcess {
 public:
  // Runs /proc/self/exe with `arguments`; its standard error stays ours.
  static absl::StatusOr<WorkerProcess> Start(const std::vector<std::string>& arguments);
  WorkerProcess(WorkerProcess&& other) noexcept;
  WorkerProcess& operator=(WorkerProcess&&) = delete;
  ~WorkerProcess();

  pid_t pid() const { return pid_; }
  // The next line that it prints, waited for; nothing at the end of its output.
  std::optional<std::string> ReadLine();
  // Waits for its end. Not OK unless it exited with 0.
  absl::Status Join();

 private:
  WorkerProcess(pid_t pid, UniqueFd output);

  pid_t pid_;  // 0 once joined
  UniqueFd output_;
  std::string buffer_;
};

}  // namespace infercache::demo
