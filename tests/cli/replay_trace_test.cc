// The hit ratio of the real daemon, shards and all, on a recorded trace, against the simulator's
// LRU.

#include <unistd.h>

#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/ctl_process.h"
#include "tests/e2e/daemon_process.h"

namespace infercache::cli {
namespace {

using Json = nlohmann::json;

// What an exact LRU over 18,279 blocks reaches on this trace.
constexpr double kSimulatedPrefixHitRatio = 0.2784;
constexpr double kTolerance = 0.005;

TEST(ReplayTrace, ConversationHitsAsOftenAsTheSimulatedLru) {
  const std::string trace = TRACE_DIRECTORY "/conversation.jsonl";
  if (access(trace.c_str(), R_OK) != 0) GTEST_SKIP() << "no trace at " << trace;
  const auto daemon = e2e::DaemonProcess::Start(
      {.arguments = {"--capacity", "512MiB"}, .config = "", .environment = {}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const CtlResult result =
      RunCtl({"--endpoint", "unix:" + (*daemon)->socket_path(), "replay", "--trace", trace,
              "--block-bytes", "1KiB", "--blocks", "10%", "--policy", "lru", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json json = Json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  ASSERT_FALSE(json.is_discarded()) << result.out;
  EXPECT_EQ(json["requests"], 12'031);
  EXPECT_EQ(json["blocks"], 288'500);
  EXPECT_EQ(json["unique_blocks"], 182'790);
  EXPECT_EQ(json["capacity_blocks"], 18'279);
  EXPECT_EQ(json["wrong_bytes"], 0);
  EXPECT_EQ(json["refused_blocks"], 0);
  EXPECT_NEAR(json["prefix_hit_ratio"].get<double>(), kSimulatedPrefixHitRatio, kTolerance)
      << result.out;
}

}  // namespace
}  // namespace infercache::cli
