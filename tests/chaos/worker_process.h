// infercache_test_worker as a child process that a test kills and stops. Waits are for the thing
// itself: a line of output, a pidfd.

#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace infercache::chaos {

class WorkerProcess {
 public:
  // Runs `binary arguments...` with pipes as its standard input and output.
  static absl::StatusOr<std::unique_ptr<WorkerProcess>> Start(
      const std::string& binary, const std::vector<std::string>& arguments);
  // Ends its input, kills it and waits for it, unless that was done.
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  // To its standard input. UNAVAILABLE: it reads no more.
  absl::Status Send(std::string_view text);
  // The next line it prints, without its end. DEADLINE_EXCEEDED; UNAVAILABLE: its output ended.
  absl::StatusOr<std::string> ReadLine(std::chrono::seconds within = std::chrono::seconds(30));
  // Whether ReadLine would return one at once; else `output` becomes readable before it does.
  bool HasLine() const { return unread_.find('\n') != std::string::npos; }
  int output() const { return output_.get(); }
  void Signal(int signal) const;
  // Waits until the kernel reports its death, and returns when that was.
  std::chrono::steady_clock::time_point AwaitDeath() const;
  // Waits for its end and returns its status, as waitpid has it. Once, and no signals after it: the
  // pid is then anybody's.
  int Wait();
  // Ends its standard input: a worker that waits for that exits, and so does its forked child.
  void EndInput() { input_.Reset(); }

 private:
  WorkerProcess() = default;

  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd input_;
  UniqueFd output_;
  std::string unread_;
};

}  // namespace infercache::chaos
