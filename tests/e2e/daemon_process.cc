#include "tests/e2e/daemon_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"

namespace infercache::e2e {
namespace {

using std::chrono::milliseconds;
using SteadyTime = std::chrono::steady_clock::time_point;

constexpr std::chrono::seconds kReadyLimit(30);

// argv or environ: pointers into `texts`, which outlive them.
std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// This process's environment without INFERCACHE_*, plus `additions`.
std::vector<std::string> Environment(const std::map<std::string, std::string>& additions) {
  std::vector<std::string> result;
  for (char** p = environ; *p != nullptr; ++p) {
    if (strncmp(*p, "INFERCACHE_", 11) != 0) result.emplace_back(*p);
  }
  for (const auto& [name, value] : additions) result.push_back(name + "=" + value);
  return result;
}

// Forks and executes; `out` and `err` become its standard output and error. -1 on failure.
pid_t Spawn(const std::string& binary, const std::vector<std::string>& arguments,
            const std::map<std::string, std::string>& environment, int out, int err) {
  std::vector<std::string> argv_texts = {binary};
  argv_texts.insert(argv_texts.end(), arguments.begin(), arguments.end());
  std::vector<std::string> env_texts = Environment(environment);
  std::vector<char*> argv = Pointers(argv_texts);
  std::vector<char*> env = Pointers(env_texts);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid != 0) return pid;
  // Between fork and exec of a threaded process: system calls only.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  execve(binary.c_str(), argv.data(), env.data());
  _exit(127);
}

int CodeOf(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Waits for the process's end through its pidfd; nullopt after `limit`.
std::optional<int> WaitFor(pid_t pid, milliseconds limit) {
  const UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!fd.valid()) return std::nullopt;
  const SteadyTime deadline = std::chrono::steady_clock::now() + limit;
  pollfd poll_fd = {.fd = fd.get(), .events = POLLIN, .revents = 0};
  int ready;
  do {
    const auto left =
        std::chrono::duration_cast<milliseconds>(deadline - std::chrono::steady_clock::now());
    ready = poll(&poll_fd, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return std::nullopt;
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) return std::nullopt;
  return CodeOf(status);
}

std::string ReadAll(int fd) {
  std::string text;
  char buffer[4096];
  ssize_t n;
  lseek(fd, 0, SEEK_SET);
  while ((n = read(fd, buffer, sizeof(buffer))) > 0) text.append(buffer, static_cast<size_t>(n));
  return text;
}

UniqueFd AnonymousFile(const char* name) {
  return UniqueFd(static_cast<int>(syscall(SYS_memfd_create, name, 1u /* MFD_CLOEXEC */)));
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  // Short: the path of a Unix socket has at most 107 bytes.
  char pattern[] = "/tmp/infercache.XXXXXX";
  if (mkdtemp(pattern) == nullptr) {
    std::perror("mkdtemp");
    std::abort();
  }
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::File(const std::string& name, const std::string& content) const {
  std::string path = path_ + "/" + name;
  std::ofstream(path) << content;
  return path;
}

absl::StatusOr<Finished> RunToEnd(const std::string& binary,
                                  const std::vector<std::string>& arguments,
                                  const std::map<std::string, std::string>& environment,
                                  std::chrono::seconds limit) {
  const UniqueFd out = AnonymousFile("stdout");
  const UniqueFd err = AnonymousFile("stderr");
  const pid_t pid = Spawn(binary, arguments, environment, out.get(), err.get());
  if (pid < 0) return absl::ErrnoToStatus(errno, "fork");
  const std::optional<int> code = WaitFor(pid, limit);
  if (!code.has_value()) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return absl::DeadlineExceededError(binary + " did not end: " + ReadAll(err.get()));
  }
  return Finished{*code, ReadAll(out.get()), ReadAll(err.get())};
}

std::string DaemonBinary() { return INFERCACHED_BINARY; }

absl::StatusOr<Finished> RunDaemonToEnd(const std::vector<std::string>& arguments,
                                        const std::map<std::string, std::string>& environment) {
  return RunToEnd(DaemonBinary(), arguments, environment);
}

absl::StatusOr<std::unique_ptr<DaemonProcess>> DaemonProcess::Start(Options options) {
  auto daemon = std::unique_ptr<DaemonProcess>(new DaemonProcess());
  RETURN_IF_ERROR(daemon->Launch(options));
  if (!options.until.empty()) {
    if (daemon->WaitForLog(options.until, kReadyLimit)) return daemon;
    return absl::FailedPreconditionError("not in the log: " + options.until + "\n" + daemon->log());
  }
  // In both log formats the line of readiness ends start-up; the ready file is there before it.
  if (!daemon->WaitForAny({" info ready ", "\"msg\":\"ready\""}, kReadyLimit)) {
    daemon->Signal(SIGKILL);
    const auto code = daemon->Wait();
    return absl::FailedPreconditionError("infercached is not ready, exit code " +
                                         std::to_string(code.value_or(-1)) + "; its log:\n" +
                                         daemon->log());
  }
  RETURN_IF_ERROR(daemon->ReadAddresses());
  return daemon;
}

absl::Status DaemonProcess::Launch(const Options& options) {
  std::vector<std::string> arguments = {"--grpc-listen", "127.0.0.1:0",
                                        "--http-listen", "127.0.0.1:0",
                                        "--socket",      directory_.path() + "/d.sock",
                                        "--capacity",    "64MiB",
                                        "--ready-file",  directory_.path() + "/ready.json"};
  if (!options.config.empty()) {
    arguments.push_back("--config");
    arguments.push_back(directory_.File("config.yaml", options.config));
  }
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe2");
  log_fd_ = UniqueFd(ends[0]);
  const UniqueFd write_end(ends[1]);
  pid_ = Spawn(DaemonBinary(), arguments, options.environment, write_end.get(), write_end.get());
  if (pid_ < 0) return absl::ErrnoToStatus(errno, "fork");
  log_reader_ = std::thread([this] { ReadLog(); });
  return absl::OkStatus();
}

absl::Status DaemonProcess::ReadAddresses() {
  std::ifstream file(directory_.path() + "/ready.json");
  const auto ready = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (ready.is_discarded()) return absl::FailedPreconditionError("no valid ready file");
  grpc_address_ = ready.value("grpc", "");
  http_address_ = ready.value("http", "");
  socket_path_ = ready.value("socket", "");
  return absl::OkStatus();
}

DaemonProcess::~DaemonProcess() {
  if (pid_ > 0 && !exit_code_.has_value()) {
    Signal(SIGKILL);
    Wait();
  }
  if (log_reader_.joinable()) log_reader_.join();
}

void DaemonProcess::Signal(int signal) const {
  if (pid_ > 0 && !exit_code_.has_value()) kill(pid_, signal);
}

std::optional<int> DaemonProcess::Wait(milliseconds limit) {
  if (!exit_code_.has_value()) exit_code_ = WaitFor(pid_, limit);
  return exit_code_;
}

std::optional<int> DaemonProcess::Stop() {
  Signal(SIGTERM);
  return Wait();
}

void DaemonProcess::ReadLog() {
  char buffer[4096];
  ssize_t n;
  do {
    n = read(log_fd_.get(), buffer, sizeof(buffer));
    MutexLock lock(&mu_);
    if (n > 0) log_.append(buffer, static_cast<size_t>(n));
    if (n == 0) log_ended_ = true;
    log_grew_.SignalAll();
  } while (n > 0 || (n < 0 && errno == EINTR));
}

std::string DaemonProcess::log() const {
  MutexLock lock(&mu_);
  return log_;
}

bool DaemonProcess::WaitForAny(std::initializer_list<std::string_view> texts, milliseconds limit) {
  const SteadyTime deadline = std::chrono::steady_clock::now() + limit;
  MutexLock lock(&mu_);
  bool more = true;
  while (true) {
    for (std::string_view text : texts) {
      if (log_.find(text) != std::string::npos) return true;
    }
    if (!more || log_ended_) return false;
    more = log_grew_.WaitUntil(&mu_, deadline);
  }
}

}  // namespace infercache::e2e
