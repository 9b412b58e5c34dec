#include "server/socket_admins.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/unique_fd.h"

namespace infercache::server {
namespace {

constexpr uint32_t kNobodyHere = 4'000'000'000;

class SocketAdmins : public testing::Test {
 protected:
  SocketAdmins() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    server_ = UniqueFd(ends[0]);
    client_ = UniqueFd(ends[1]);
  }

  bool Permits(const LocalPeers& admins, uint32_t own) {
    return MayAdminister(server_.get(), admins, own);
  }

  UniqueFd server_, client_;
};

TEST_F(SocketAdmins, AreTheDaemonsUserAndThoseListed) {
  EXPECT_TRUE(Permits({.everyone = false}, geteuid()));
  EXPECT_FALSE(Permits({.everyone = false}, kNobodyHere));
  EXPECT_TRUE(Permits({.everyone = false, .users = {geteuid()}}, kNobodyHere));
  EXPECT_TRUE(Permits({.everyone = false, .groups = {getegid()}}, kNobodyHere));
  EXPECT_FALSE(Permits({.everyone = false, .users = {1'234'567}}, kNobodyHere));
  EXPECT_TRUE(Permits({.everyone = true}, kNobodyHere));
}

TEST_F(SocketAdmins, AreNobodyOnASocketWhosePeerTheKernelDoesNotName) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  EXPECT_FALSE(MayAdminister(read_end.get(), {.everyone = true}, geteuid()));
}

}  // namespace
}  // namespace infercache::server
