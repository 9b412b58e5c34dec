#include "common/unix_socket.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace infercache {
namespace {

std::string SocketPath(const char* name) { return ::testing::TempDir() + "/ic-unix-" + name; }

uint32_t ModeOf(const std::string& path) {
  struct stat info = {};
  stat(path.c_str(), &info);
  return info.st_mode & 0777;
}

TEST(ListenOnUnixSocket, GivesTheFileItsModeWhateverTheUmask) {
  const std::string path = SocketPath("mode");
  const mode_t before = umask(0);
  const auto open = ListenOnUnixSocket(path, 0640, 8);
  umask(0777);
  const auto closed = ListenOnUnixSocket(path + "2", 0666, 8);
  umask(before);
  ASSERT_TRUE(open.ok()) << open.status();
  ASSERT_TRUE(closed.ok()) << closed.status();
  EXPECT_EQ(ModeOf(path), 0640u);
  EXPECT_EQ(ModeOf(path + "2"), 0666u);
}

TEST(ListenOnUnixSocket, LeavesTheModeToTheUmaskIfNoneIsGiven) {
  const std::string path = SocketPath("umask");
  const mode_t before = umask(027);
  const auto listener = ListenOnUnixSocket(path, std::nullopt, 8);
  umask(before);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(ModeOf(path), 0750u);
}

TEST(ListenOnUnixSocket, PathsHaveALimit) {
  const std::string longest = SocketPath(std::string(107 - SocketPath("").size(), 'x').c_str());
  EXPECT_EQ(longest.size(), 107u);
  EXPECT_TRUE(ListenOnUnixSocket(longest, 0600, 8).ok());
  EXPECT_EQ(ListenOnUnixSocket(longest + "x", 0600, 8).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ListenOnUnixSocket("", 0600, 8).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SocketFile, LeavesAFileAloneThatTookItsPlace) {
  const std::string path = SocketPath("replaced");
  {
    const auto listener = ListenOnUnixSocket(path, 0600, 8);
    ASSERT_TRUE(listener.ok()) << listener.status();
    std::filesystem::remove(path);
    std::ofstream(path) << "another one";
  }
  EXPECT_TRUE(std::filesystem::exists(path));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace infercache
