#include "server/config_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace infercache::server {
namespace {

using testing::HasSubstr;

TEST(FormatSize, IsReadBackUnchanged) {
  for (uint64_t bytes :
       {uint64_t{0}, uint64_t{1}, uint64_t{1000}, uint64_t{1023}, uint64_t{1024},
        uint64_t{10'000'000'000}, (uint64_t{2} << 30) - 1, uint64_t{3} << 29, uint64_t{64} << 40}) {
    EXPECT_EQ(*ParseSize(FormatSize(bytes)), bytes) << FormatSize(bytes);
  }
  EXPECT_EQ(FormatSize(uint64_t{2} << 30), "2GiB");
  EXPECT_EQ(FormatSize(10'000'000'000), "10GB");
}

TEST(FormatDurationMs, IsReadBackUnchanged) {
  for (uint64_t ms : {0, 1, 100, 1000, 1500, 60'000, 90'000, 3'600'000, 86'400'000}) {
    EXPECT_EQ(*ParseDurationMs(FormatDurationMs(ms)), ms);
  }
}

TEST(ParseBool, ReadsTheUsualWords) {
  for (const char* text : {"true", "True", "yes", "on", "1"}) EXPECT_TRUE(*ParseBool(text));
  for (const char* text : {"false", "no", "OFF", "0"}) EXPECT_FALSE(*ParseBool(text));
  for (const char* text : {"", "2", "maybe"}) EXPECT_FALSE(ParseBool(text).ok()) << text;
}

TEST(ParseFileMode, IsOctalWithoutSpecialBits) {
  EXPECT_EQ(*ParseFileMode("0660"), 0660u);
  EXPECT_EQ(*ParseFileMode("777"), 0777u);
  for (const char* text : {"", "1000", "7777", "0868", "u+rw", "00660"}) {
    EXPECT_FALSE(ParseFileMode(text).ok()) << text;
  }
}

TEST(ParseHostPort, TellsLoopbackFromTheRest) {
  EXPECT_TRUE(ParseHostPort("127.0.0.1:7400")->IsLoopback());
  EXPECT_TRUE(ParseHostPort("127.9.9.9:0")->IsLoopback());
  EXPECT_TRUE(ParseHostPort("[::1]:7400")->IsLoopback());
  EXPECT_TRUE(ParseHostPort("localhost:7400")->IsLoopback());
  EXPECT_FALSE(ParseHostPort("0.0.0.0:7400")->IsLoopback());
  EXPECT_FALSE(ParseHostPort("[::]:7400")->IsLoopback());
  EXPECT_FALSE(ParseHostPort("10.0.0.1:7400")->IsLoopback());
}

TEST(ParseHostPort, RoundTripsAndRefusesTheRest) {
  for (const char* text : {"127.0.0.1:7400", "[::1]:0", "localhost:65535"}) {
    EXPECT_EQ(ParseHostPort(text)->ToString(), text);
  }
  for (const char* text :
       {"", "7400", ":7400", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:7400",
        "[127.0.0.1]:1", "example.com:7400", "127.0.0.1:7400,8080", "1.2.3:4"}) {
    const auto parsed = ParseHostPort(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("127.0.0.1:7400")) << text;
  }
}

TEST(NearestName, FindsATypingErrorAndNothingFar) {
  const std::vector<std::string_view> names = {"grpc.listen", "http.listen", "capacity"};
  EXPECT_EQ(NearestName("grpc.listn", names), "grpc.listen");
  EXPECT_EQ(NearestName("capacty", names), "capacity");
  EXPECT_EQ(NearestName("zzzzzz", names), "");
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
}

}  // namespace
}  // namespace infercache::server
