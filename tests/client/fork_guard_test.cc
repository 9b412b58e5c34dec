#include "client/src/fork_guard.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace infercache {
namespace {

// The exit status of a child that runs `body` and exits with what it returns.
template <typename Body>
int InChild(Body body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  int status = -1;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(ForkGuard, KnowsItsProcess) {
  const ForkGuard mine;
  EXPECT_FALSE(mine.inherited());
  EXPECT_EQ(InChild([&] { return mine.inherited() ? 7 : 1; }), 7);
  EXPECT_FALSE(mine.inherited()) << "the child's page is its own";
}

TEST(ForkGuard, TellsGenerationsApart) {
  const ForkGuard parents;
  EXPECT_EQ(InChild([&] {
              const ForkGuard childs;
              if (childs.inherited() || !parents.inherited()) return 1;
              return InChild([&] {
                const ForkGuard grandchilds;
                return parents.inherited() && childs.inherited() && !grandchilds.inherited() ? 7
                                                                                             : 1;
              });
            }),
            7);
}

}  // namespace
}  // namespace infercache
