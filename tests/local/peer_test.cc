#include "server/local/peer.h"

#include <grp.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <vector>

namespace infercache::local {
namespace {

constexpr OverflowIds kOverflow = {.user = 65534, .group = 65533};

Peer MakePeer(uint32_t user, uint32_t group, std::vector<uint32_t> groups = {}) {
  Peer peer;
  peer.user = user;
  peer.group = group;
  peer.groups = std::move(groups);
  return peer;
}

bool May(const Peer& peer, std::vector<uint32_t> users, std::vector<uint32_t> groups) {
  return Permits({.everyone = false, .users = std::move(users), .groups = std::move(groups)}, peer,
                 kOverflow);
}

TEST(Permits, MatchesUserGroupAndSupplementaryGroups) {
  const Peer peer = MakePeer(1000, 100, {27, 44});
  EXPECT_TRUE(May(peer, {1, 1000}, {}));
  EXPECT_TRUE(May(peer, {}, {100}));
  EXPECT_TRUE(May(peer, {}, {44}));
  EXPECT_FALSE(May(peer, {100, 27}, {1000}));
  EXPECT_FALSE(May(peer, {}, {}));
}

TEST(Permits, AnUnmappedIdMatchesNothing) {
  const Peer stranger = MakePeer(kOverflow.user, kOverflow.group, {kOverflow.group});
  EXPECT_FALSE(May(stranger, {kOverflow.user}, {kOverflow.group}));
  EXPECT_TRUE(May(MakePeer(kOverflow.user, 100), {}, {100}));
  EXPECT_TRUE(May(MakePeer(1000, kOverflow.group, {7}), {}, {7}));
}

TEST(Permits, EveryoneIsWhoeverCanOpenTheSocket) {
  EXPECT_TRUE(Permits({.everyone = true}, MakePeer(kOverflow.user, kOverflow.group), kOverflow));
}

TEST(IdentifyPeer, KnowsThisProcess) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  const auto peer = IdentifyPeer(ours.get());
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->user, getuid());
  EXPECT_EQ(peer->group, getgid());
  EXPECT_EQ(peer->pid, getpid());
  ASSERT_TRUE(peer->process.valid());
  EXPECT_FALSE(IsGone(peer->process));
}

// Whoever connects has the groups that it had then: more than a first guess has room for.
TEST(IdentifyPeer, KnowsAllSupplementaryGroups) {
  std::vector<gid_t> groups(300);
  std::iota(groups.begin(), groups.end(), 4000);
  enum { kKnown, kNotKnown, kNotAllowed };
  const pid_t child = fork();
  if (child == 0) {
    if (setgroups(groups.size(), groups.data()) != 0) _exit(kNotAllowed);
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) _exit(kNotKnown);
    const auto peer = IdentifyPeer(ends[0]);
    _exit(peer.ok() &&
                  std::equal(groups.begin(), groups.end(), peer->groups.begin(), peer->groups.end())
              ? kKnown
              : kNotKnown);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kNotAllowed) GTEST_SKIP() << "takes root";
  EXPECT_EQ(WEXITSTATUS(status), kKnown);
}

// It fell back to pidfd_open, which failed too, and a session without a witness was opened.
TEST(IdentifyPeer, OutOfDescriptorsIsNoPeerWithoutAWitness) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;  // what is open stays open
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto peer = IdentifyPeer(ours.get());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(peer.status().code(), absl::StatusCode::kResourceExhausted) << peer.status();
}

TEST(IdentifyPeer, AProcessThatIsGoneIsNeverTakenForALiveOne) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = ::testing::TempDir() + "/peer-" + std::to_string(getpid());
  ASSERT_LT(path.size(), sizeof address.sun_path);
  path.copy(address.sun_path, path.size());
  const UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  const UniqueFd theirs(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const pid_t child = fork();
  if (child == 0) {
    _exit(connect(theirs.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  std::filesystem::remove(path);
  ASSERT_EQ(status, 0);
  const UniqueFd ours(accept(listener.get(), nullptr, nullptr));
  const auto peer = IdentifyPeer(ours.get());
  if (peer.ok()) {  // the kernel still has a witness of it
    ASSERT_TRUE(peer->process.valid());
    EXPECT_TRUE(IsGone(peer->process));
  } else {
    EXPECT_EQ(peer.status().code(), absl::StatusCode::kNotFound) << peer.status();
  }
}

TEST(IdentifyPeer, NeedsASocket) { EXPECT_FALSE(IdentifyPeer(-1).ok()); }

}  // namespace
}  // namespace infercache::local
