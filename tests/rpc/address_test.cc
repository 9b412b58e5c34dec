#include "server/rpc/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace infercache::rpc {
namespace {

using ::testing::HasSubstr;

std::string SocketPath(const char* name) {
  return ::testing::TempDir() + name + std::to_string(getpid());
}

TEST(Address, ParsesWhatItPrints) {
  for (const char* text :
       {"127.0.0.1:7400", "0.0.0.0:1", "[::1]:7400", "[::]:65535", "unix:/run/x.sock"}) {
    const auto address = ParseAddress(text);
    ASSERT_TRUE(address.ok()) << text << ": " << address.status();
    EXPECT_EQ(address->ToString(), text);
  }
}

TEST(Address, KnowsLoopback) {
  for (const char* text :
       {"127.0.0.1:1", "127.1.2.3:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/x"}) {
    EXPECT_TRUE(ParseAddress(text)->is_loopback()) << text;
  }
  for (const char* text :
       {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "128.0.0.1:1", "[::ffff:10.0.0.1]:1"}) {
    EXPECT_FALSE(ParseAddress(text)->is_loopback()) << text;
  }
}

TEST(Address, NamesPeersAsGrpcDoes) {
  EXPECT_EQ(ParseAddress("127.0.0.1:7400")->ToGrpcUri(), "ipv4:127.0.0.1:7400");
  EXPECT_EQ(ParseAddress("[::1]:7400")->ToGrpcUri(), "ipv6:%5B::1%5D:7400");
  EXPECT_EQ(ParseAddress("[::ffff:127.0.0.1]:7400")->ToGrpcUri(), "ipv4:127.0.0.1:7400");
}

TEST(Address, RefusesWithTheTextAndTheReason) {
  const std::pair<std::string, const char*> cases[] = {
      {"localhost", "HOST:PORT"},
      {":7400", "host is empty"},
      {"127.0.0.1:", "port"},
      {"127.0.0.1:65536", "port"},
      {"127.0.0.1:-1", "port"},
      {"::1:7400", "brackets"},
      {"unix:", "path is empty"},
      {"unix:/" + std::string(200, 'x'), "at most 107"},
      {"no.such.host.invalid:1", "address \"no.such.host.invalid:1\""}};
  for (const auto& [text, what] : cases) {
    const auto address = ParseAddress(text);
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(address.status().message()), HasSubstr(what)) << text;
    EXPECT_THAT(std::string(address.status().message()), HasSubstr(text)) << text;
  }
}

TEST(Listen, NamesAPortInUse) {
  const auto first = Listen(*ParseAddress("127.0.0.1:0"));
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = Listen(first->address);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(first->address.ToString()));
}

TEST(Listen, NamesAnAddressThatIsNotHere) {
  const auto socket = Listen(*ParseAddress("192.0.2.1:7400"));
  EXPECT_EQ(socket.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(socket.status().message()), HasSubstr("192.0.2.1:7400"));
}

TEST(Listen, RefusesALiveSocketFileAndReplacesAStaleOne) {
  const std::string path = SocketPath("listen");
  const auto address = *ParseAddress("unix:" + path);
  {
    auto live = Listen(address);
    ASSERT_TRUE(live.ok()) << live.status();
    const auto second = Listen(address);
    EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists) << second.status();
    EXPECT_TRUE(std::filesystem::exists(path)) << "the refusal must leave the live socket alone";
    live->fd.Reset();
    // What a killed daemon leaves: a file, and nobody behind it.
    const auto third = Listen(address);
    EXPECT_TRUE(third.ok()) << third.status();
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Listen, LeavesASocketOfAnotherKindAlone) {
  const std::string path = SocketPath("datagram");
  const auto address = *ParseAddress("unix:" + path);
  const UniqueFd foreign(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(foreign.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.size),
            0);
  const auto socket = Listen(address);
  EXPECT_EQ(socket.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(socket.status().message()), HasSubstr("may be in use"));
  EXPECT_TRUE(std::filesystem::exists(path));
  std::filesystem::remove(path);
}

TEST(Listen, LeavesAnOrdinaryFileAlone) {
  const std::string path = SocketPath("file");
  std::ofstream(path) << "precious";
  const auto socket = Listen(*ParseAddress("unix:" + path));
  EXPECT_EQ(socket.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(std::filesystem::exists(path));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace infercache::rpc
