#include "tests/chaos/worker_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"

namespace infercache::chaos {
namespace {

// A pipe whose ends close on exec.
absl::Status MakePipe(UniqueFd* reader, UniqueFd* writer) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  *reader = UniqueFd(ends[0]);
  *writer = UniqueFd(ends[1]);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerProcess>> WorkerProcess::Start(
    const std::string& binary, const std::vector<std::string>& arguments) {
  std::unique_ptr<WorkerProcess> process(new WorkerProcess());
  UniqueFd its_input, its_output;
  if (absl::Status s = MakePipe(&its_input, &process->input_); !s.ok()) return s;
  if (absl::Status s = MakePipe(&process->output_, &its_output); !s.ok()) return s;
  std::vector<char*> argv = {const_cast<char*>(binary.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, its_input.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, its_output.get(), STDOUT_FILENO);
  const int error =
      posix_spawn(&process->pid_, binary.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    process->pid_ = -1;
    return absl::ErrnoToStatus(error, "posix_spawn");
  }
  process->pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, process->pid_, 0)));
  if (!process->pidfd_.valid()) return absl::ErrnoToStatus(errno, "pidfd_open");
  return process;
}

WorkerProcess::~WorkerProcess() {
  if (pid_ <= 0) return;
  Signal(SIGKILL);
  Wait();
}

absl::Status WorkerProcess::Send(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(input_.get(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::UnavailableError("the worker reads no more");
    text.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> WorkerProcess::ReadLine(std::chrono::seconds within) {
  const auto deadline = std::chrono::steady_clock::now() + within;
  while (true) {
    if (const size_t end = unread_.find('\n'); end != std::string::npos) {
      std::string line = unread_.substr(0, end);
      unread_.erase(0, end + 1);
      return line;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return absl::DeadlineExceededError("the worker is silent");
    pollfd item = {.fd = output_.get(), .events = POLLIN, .revents = 0};
    if (poll(&item, 1, static_cast<int>(left.count())) <= 0) continue;
    char buffer[4096];
    const ssize_t count = read(output_.get(), buffer, sizeof buffer);
    if (count == 0) return absl::UnavailableError("the worker's output ended: " + unread_);
    if (count > 0) unread_.append(buffer, static_cast<size_t>(count));
  }
}

void WorkerProcess::Signal(int signal) const { kill(pid_, signal); }

int WorkerProcess::Wait() {
  int status = -1;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

std::chrono::steady_clock::time_point WorkerProcess::AwaitDeath() const {
  pollfd item = {.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
  while (poll(&item, 1, -1) <= 0) {
  }
  return std::chrono::steady_clock::now();
}

}  // namespace infercache::chaos
