#include "tests/cli/ctl_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <string_view>

#include "common/unique_fd.h"

extern char** environ;

namespace infercache::cli {
namespace {

using SteadyClock = std::chrono::steady_clock;
constexpr std::chrono::seconds kDeadline{150};

struct Pipe {
  UniqueFd read_end, write_end;
};

Pipe MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) std::abort();
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (auto& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> Environment(const std::vector<std::string>& extra) {
  std::vector<std::string> result = extra;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!std::string_view(*entry).starts_with("INFERCACHE_")) result.emplace_back(*entry);
  }
  return result;
}

// Closes the descriptor at its end.
void ReadSome(UniqueFd& fd, std::string& text) {
  char buffer[65536];
  const ssize_t got = read(fd.get(), buffer, sizeof buffer);
  if (got > 0) {
    text.append(buffer, static_cast<size_t>(got));
  } else {
    fd.Reset();
  }
}

// Closes the descriptor when all is written or nobody reads any more.
void WriteSome(UniqueFd& fd, std::string_view& rest) {
  const ssize_t put = rest.empty() ? 0 : write(fd.get(), rest.data(), rest.size());
  if (put > 0) rest.remove_prefix(static_cast<size_t>(put));
  if (put < 0 || rest.empty()) fd.Reset();
}

// False if the deadline came first.
bool Exchange(UniqueFd& in, UniqueFd& out, UniqueFd& err, std::string_view input,
              CtlResult& result) {
  const auto end = SteadyClock::now() + kDeadline;
  while (in.valid() || out.valid() || err.valid()) {
    if (SteadyClock::now() > end) return false;
    std::array<pollfd, 3> fds = {pollfd{in.get(), POLLOUT, 0}, pollfd{out.get(), POLLIN, 0},
                                 pollfd{err.get(), POLLIN, 0}};
    poll(fds.data(), fds.size(), /*timeout_ms=*/1000);
    if (fds[0].revents != 0) WriteSome(in, input);
    if (fds[1].revents != 0) ReadSome(out, result.out);
    if (fds[2].revents != 0) ReadSome(err, result.err);
  }
  return true;
}

}  // namespace

CtlResult RunCtl(const std::vector<std::string>& arguments, const std::string& input,
                 const std::vector<std::string>& environment) {
  signal(SIGPIPE, SIG_IGN);
  Pipe in = MakePipe(), out = MakePipe(), err = MakePipe();
  fcntl(in.write_end.get(), F_SETFL, O_NONBLOCK);

  std::vector<std::string> argv = {INFERCACHECTL_PATH};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  std::vector<std::string> env = Environment(environment);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.read_end.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.write_end.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.write_end.get(), STDERR_FILENO);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, INFERCACHECTL_PATH, &actions, nullptr, Pointers(argv).data(),
                                Pointers(env).data());
  posix_spawn_file_actions_destroy(&actions);
  CtlResult result;
  if (error != 0) {
    result.err = "infercachectl could not be started";
    return result;
  }
  in.read_end.Reset();
  out.write_end.Reset();
  err.write_end.Reset();
  if (!Exchange(in.write_end, out.read_end, err.read_end, input, result)) kill(pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

}  // namespace infercache::cli
