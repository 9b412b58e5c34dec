#include "common/unique_fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <utility>

namespace infercache {
namespace {

int OpenSomething() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }
bool IsOpen(int fd) { return fcntl(fd, F_GETFD) != -1; }

TEST(UniqueFd, ClosesInItsDestructor) {
  const int fd = OpenSomething();
  {
    const UniqueFd owner(fd);
    EXPECT_TRUE(owner.valid());
    EXPECT_EQ(owner.get(), fd);
  }
  EXPECT_FALSE(IsOpen(fd));
}

TEST(UniqueFd, MovingLeavesOneOwner) {
  const int fd = OpenSomething();
  UniqueFd first(fd);
  UniqueFd second(std::move(first));
  EXPECT_FALSE(first.valid());  // NOLINT(bugprone-use-after-move): that is the point
  EXPECT_TRUE(IsOpen(fd));
  const int replaced = OpenSomething();
  UniqueFd third(replaced);
  third = std::move(second);
  EXPECT_FALSE(IsOpen(replaced));
  EXPECT_EQ(third.get(), fd);
  EXPECT_TRUE(IsOpen(fd));
}

TEST(UniqueFd, SelfMoveKeepsTheDescriptor) {
  UniqueFd owner(OpenSomething());
  UniqueFd& alias = owner;
  owner = std::move(alias);
  EXPECT_TRUE(owner.valid());
  EXPECT_TRUE(IsOpen(owner.get()));
}

TEST(UniqueFd, ReleaseHandsOver) {
  UniqueFd owner(OpenSomething());
  const int fd = owner.Release();
  EXPECT_FALSE(owner.valid());
  EXPECT_TRUE(IsOpen(fd));
  close(fd);
}

}  // namespace
}  // namespace infercache
