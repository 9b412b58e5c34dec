#include "server/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace infercache::server {
namespace {

using testing::HasSubstr;

constexpr uid_t kSomeUser = 1000;

class Files : public testing::Test {
 protected:
  Files() {
    std::string pattern = testing::TempDir() + "infercache_process.XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~Files() override {
    rmdir((directory_ + "/infercache").c_str());
    rmdir(directory_.c_str());
  }
  static std::string Content(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }

  std::string directory_;
};

TEST_F(Files, AreReplacedInOneStepAndRemovedAtTheEnd) {
  const std::string path = directory_ + "/pid";
  {
    ExitFiles files;
    ASSERT_TRUE(files.Write(path, "1\n").ok());
    ASSERT_TRUE(files.Write(path, "2\n").ok());
    EXPECT_EQ(Content(path), "2\n");
    struct stat status;
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0644u);
  }
  EXPECT_NE(access(path.c_str(), F_OK), 0);
  EXPECT_EQ(rmdir(directory_.c_str()), 0) << "nothing else is left";
}

TEST_F(Files, OfASuccessorStay) {
  const std::string path = directory_ + "/pid";
  ExitFiles successor;
  {
    ExitFiles files;
    ASSERT_TRUE(files.Write(path, "1\n").ok());
    ASSERT_TRUE(successor.Write(path, "2\n").ok());
  }
  EXPECT_EQ(Content(path), "2\n");
  successor.RemoveAll();
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST(RaiseFileLimit, TakesWhatThereIsAndNamesWhatIsMissing) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low = {.rlim_cur = 64, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_EQ(RaiseFileLimit(before.rlim_max), "");
  rlimit after;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  if (before.rlim_max != RLIM_INFINITY) {
    EXPECT_THAT(RaiseFileLimit(before.rlim_max + 1),
                HasSubstr("grpc.max_connections and local.max_sessions"));
  }
}

TEST_F(Files, AnErrorNamesThePath) {
  ExitFiles files;
  const absl::Status status = files.Write(directory_ + "/no/such/dir/pid", "1\n");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(directory_ + "/no/such/dir/pid"));
}

TEST_F(Files, TheDefaultSocketLiesInTheUsersRuntimeDirectory) {
  const SocketChoice choice = ChooseSocket("auto", kSomeUser, directory_.c_str());
  EXPECT_EQ(choice.path, directory_ + "/infercache/infercached.sock");
  EXPECT_EQ(choice.warning, "");
  struct stat status;
  ASSERT_EQ(stat((directory_ + "/infercache").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
  EXPECT_EQ(ChooseSocket("auto", kSomeUser, directory_.c_str()).path, choice.path) << "again";
}

TEST_F(Files, WithoutARuntimeDirectoryThereIsAWarningAndNoSocket) {
  EXPECT_EQ(ChooseSocket("auto", kSomeUser, nullptr).path, "");
  EXPECT_THAT(ChooseSocket("auto", kSomeUser, "").warning, HasSubstr("XDG_RUNTIME_DIR"));
  const SocketChoice choice = ChooseSocket("auto", kSomeUser, "/does/not/exist");
  EXPECT_EQ(choice.path, "");
  EXPECT_THAT(choice.warning, HasSubstr("/does/not/exist/infercache"));
}

TEST_F(Files, AGivenSocketStandsForItself) {
  EXPECT_EQ(ChooseSocket("/tmp/x.sock", kSomeUser, nullptr).path, "/tmp/x.sock");
  EXPECT_EQ(ChooseSocket("", kSomeUser, nullptr).path, "");
  EXPECT_EQ(ChooseSocket("", kSomeUser, nullptr).warning, "");
}

}  // namespace
}  // namespace infercache::server
