#include "tests/local/child.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

namespace infercache::local {

bool Pipe::Tell(char word) { return send(socket_.get(), &word, 1, MSG_NOSIGNAL) == 1; }

std::optional<char> Pipe::Hear() {
  char word = 0;
  ssize_t n;
  do {
    n = recv(socket_.get(), &word, 1, 0);
  } while (n < 0 && errno == EINTR);
  if (n != 1) return std::nullopt;
  return word;
}

bool Pipe::Await(char word) { return Hear() == word; }

Child::Child(const std::function<bool(Pipe& parent)>& body) : pipe_(UniqueFd()) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) abort();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(ends[0]);
    Pipe parent{UniqueFd(ends[1])};
    _exit(body(parent) ? 0 : 1);
  }
  close(ends[1]);
  pipe_ = Pipe(UniqueFd(ends[0]));
}

Child::~Child() {
  if (pid_ > 0) Kill();
}

void Child::Kill() {
  kill(pid_, SIGKILL);
  waitpid(std::exchange(pid_, -1), nullptr, 0);
}

bool Child::Join() {
  int status = 0;
  waitpid(std::exchange(pid_, -1), &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace infercache::local
