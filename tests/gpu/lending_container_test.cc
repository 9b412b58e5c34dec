// Workers in containers that share neither PIDs nor IPC, each the first process of its own: what
// crosses is the daemon's socket alone. `unshare` makes them, where user namespaces are allowed.
// And workers of different users.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "tests/gpu/lending_fixture.h"

namespace infercache::gpu {
namespace {

using local::Eventually;
using ::testing::HasSubstr;

#define INFERCACHE_UNSHARE "unshare --user --map-root-user --pid --ipc --fork --kill-child"

class LendingContainers : public GpuLending {
 protected:
  void SetUp() override {
    GpuLending::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const int status = std::system(INFERCACHE_UNSHARE " true");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      GTEST_SKIP() << "namespaces are not allowed here: " INFERCACHE_UNSHARE;
    }
  }
  // `exec`: it is PID 1 of its namespace, as a container's only process is.
  Told StartContained() {
    const std::string command = INFERCACHE_UNSHARE " \"$0\" \"$@\"";
    auto process = chaos::WorkerProcess::Start(
        "/bin/sh",
        {"-c", "exec " + command, HelperPath(LENDING_WORKER_BINARY), socket_path(), device_.uuid});
    EXPECT_TRUE(process.ok()) << process.status();
    Told worker = Told::Of(*std::move(process));
    EXPECT_EQ(worker.Do("pid"), "1");
    return worker;
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, LendingContainers, ::testing::Values("legacy", "vmm"));

TEST_P(LendingContainers, WithOnePidLendByADescriptorAlone) {
  const bool legacy = std::string(GetParam()) == "legacy";
  Told owner = StartContained(), reader = StartContained();
  ASSERT_EQ(owner.Do(std::string("alloc ") + GetParam()), "ok");
  ASSERT_EQ(owner.Do("fill text"), "ok");
  ASSERT_EQ(owner.Do("lend key"), "lent");
  if (!legacy) {
    EXPECT_EQ(reader.Do("borrow key"), "hit");
    EXPECT_EQ(reader.Do("read"), "text");
    EXPECT_EQ(reader.Do("release"), "ok");
  } else {
    EXPECT_EQ(reader.Do("borrow key"), "FAILED_PRECONDITION");
    const std::string why = reader.Do("why");
    EXPECT_THAT(why, HasSubstr("it has 1 in its PID namespace"));
    EXPECT_THAT(why, HasSubstr("this process 1 in its own"));
    EXPECT_THAT(why, HasSubstr("docs/gpu.md"));
  }
  EXPECT_EQ(owner.Do("take_back key 30000"), "OK");
  EXPECT_EQ(owner.Do("free"), "ok");
}

// The kernel tells the daemon of a container's death as of any process's.
TEST_P(LendingContainers, DieAsOthersDo) {
  Told owner = StartContained(), reader = StartContained();
  ASSERT_EQ(owner.Do(std::string("alloc ") + GetParam()), "ok");
  ASSERT_EQ(owner.Do("fill text"), "ok");
  ASSERT_EQ(owner.Do("lend key"), "lent");
  (void)reader.Do("borrow key");
  owner.Kill();
  EXPECT_TRUE(Eventually([this] { return server_->stats().lending.loans == 0; }));
  reader.Kill();
  EXPECT_TRUE(Eventually([this] { return NothingIsLent() && server_->stats().sessions == 0; }));
}

// As CUDA has it: by a handle nobody gets at another user's memory, whatever else he may.
class LendingUsers : public GpuLending {
 protected:
  void SetUp() override {
    GpuLending::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (geteuid() != 0) GTEST_SKIP() << "becoming another user takes root";
    const std::string worker = HelperPath(LENDING_WORKER_BINARY);
    if (std::system(
            ("setpriv --reuid=1 --regid=1 --clear-groups test -r '" + worker + "'").c_str()) != 0) {
      GTEST_SKIP() << "other users cannot read " << worker;
    }
    using std::filesystem::perms;
    const auto add = std::filesystem::perm_options::add;
    const auto directory = std::filesystem::path(socket_path()).parent_path();
    std::filesystem::permissions(directory, perms::others_exec, add);
    std::filesystem::permissions(socket_path(), perms::others_read | perms::others_write, add);
    std::filesystem::permissions(fake().path(), perms::others_read | perms::others_write, add);
  }
  Told StartAs(const std::string& user) {
    auto process = chaos::WorkerProcess::Start(
        "/bin/sh",
        {"-c",
         "exec setpriv --reuid=" + user + " --regid=" + user + " --clear-groups \"$0\" \"$@\"",
         HelperPath(LENDING_WORKER_BINARY), socket_path(), device_.uuid});
    EXPECT_TRUE(process.ok()) << process.status();
    return Told::Of(*std::move(process));
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, LendingUsers, ::testing::Values("legacy", "vmm"));

TEST_P(LendingUsers, LendByADescriptorAlone) {
  const bool legacy = std::string(GetParam()) == "legacy";
  // Either way round, and the second reader may look into every process.
  for (const auto& [lender, borrower] : {std::pair{"0", "1"}, std::pair{"1", "0"}}) {
    Told owner = StartAs(lender), reader = StartAs(borrower);
    ASSERT_EQ(owner.Do(std::string("alloc ") + GetParam()), "ok");
    ASSERT_EQ(owner.Do("fill text"), "ok");
    ASSERT_EQ(owner.Do("lend key"), "lent");
    EXPECT_EQ(reader.Do("borrow key"), legacy ? "FAILED_PRECONDITION" : "hit");
    if (legacy) {
      EXPECT_THAT(reader.Do("why"), HasSubstr(std::string("user ") + lender + "'s, this one user " +
                                              borrower + "'s"));
      const uint64_t opens = Opens();
      EXPECT_EQ(reader.Do("borrow key"), "FAILED_PRECONDITION");
      EXPECT_EQ(Opens(), opens) << "what fails for good is not tried again";
      EXPECT_EQ(reader.Do("not_opened"), "2 0 0");
    } else {
      EXPECT_EQ(reader.Do("read"), "text");
      EXPECT_EQ(reader.Do("release"), "ok");
    }
    EXPECT_EQ(owner.Do("take_back key 30000"), "OK");
  }
}

}  // namespace
}  // namespace infercache::gpu
