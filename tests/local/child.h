// A real process for tests of what happens when one dies: forked before the test starts any
// thread, told what to do next over a pipe, killed at will.

#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <utility>

#include "common/unique_fd.h"

namespace infercache::local {

// One end of a conversation of single bytes. False or nullopt: the other side is gone.
class Pipe {
 public:
  explicit Pipe(UniqueFd socket) : socket_(std::move(socket)) {}

  bool Tell(char word);
  bool Await(char word);
  // Whatever comes next.
  std::optional<char> Hear();

 private:
  UniqueFd socket_;
};

class Child {
 public:
  // Runs `body` in a new process, which exits with 0 when it returns true, else with 1.
  // REQUIRES: this process has one thread.
  explicit Child(const std::function<bool(Pipe& parent)>& body);
  // Kills it if it lives.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  Pipe& pipe() { return pipe_; }
  pid_t pid() const { return pid_; }
  // SIGKILL, and waits until it is gone and buried.
  void Kill();
  // Waits for its end. True if it exited with 0.
  bool Join();

 private:
  pid_t pid_ = -1;
  Pipe pipe_;
};

}  // namespace infercache::local
