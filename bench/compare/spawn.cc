#include "bench/compare/spawn.h"

#include <spawn.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "bench/compare/die.h"

namespace infercache::bench {

pid_t Spawn(const std::vector<std::string>& words, int input, int output) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (input >= 0) posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  if (output >= 0) posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  pid_t pid;
  const int error = posix_spawn(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) Die(absl::StrCat("cannot start ", words[0], ": ", std::strerror(error)));
  return pid;
}

}  // namespace infercache::bench
