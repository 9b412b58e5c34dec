#include "bench/compare/spawn.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "bench/compare/die.h"

namespace infercache::bench {
namespace {

// Between fork and exec, where other threads may have held any lock.
[[noreturn]] void Become(char* const* arguments, pid_t parent, int input, int output) {
  // A case that fails ends the bench at once: what it started must not live on, nor keep its output
  // open.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  if (input >= 0) dup2(input, STDIN_FILENO);
  if (output >= 0) dup2(output, STDOUT_FILENO);
  execv(arguments[0], arguments);
  constexpr char kWhy[] = "bench: cannot start a program\n";
  (void)!write(STDERR_FILENO, kWhy, sizeof kWhy - 1);
  _exit(127);
}

}  // namespace

pid_t Spawn(const std::vector<std::string>& words, int input, int output) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) Die(absl::StrCat("cannot start ", words[0], ": ", std::strerror(errno)));
  if (pid == 0) Become(arguments.data(), parent, input, output);
  return pid;
}

}  // namespace infercache::bench
