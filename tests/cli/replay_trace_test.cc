// The hit ratio of the real daemon, shards, lanes, rings and all, against the simulation: on a
// trace made here, and on a recorded one.

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/build_kind.h"
#include "tests/cli/ctl_process.h"
#include "tests/cli/recorded_trace.h"
#include "tests/e2e/daemon_process.h"

namespace infercache::cli {
namespace {

using Json = nlohmann::json;

Json RunForJson(const std::vector<std::string>& arguments, const std::string& input = "") {
  const CtlResult result = RunCtl(arguments, input);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  Json json = Json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(json.is_discarded()) << result.out;
  return json;
}

// An hour: 40 chats, each of which comes back after any time around a minute and a half and grows
// by a block every five minutes, between prompts that nobody repeats. In turns they would all be
// there or none, whatever the order in a small cache. Of 20 minutes `auto` learns so little that
// the order of four clients' requests moves its hits by a point.
std::string MadeTrace() {
  std::string trace;
  const auto request = [&trace](uint64_t ms, uint64_t first_id, uint64_t blocks) {
    absl::StrAppend(&trace, R"({"timestamp": )", ms, R"(, "input_length": )", blocks * 512,
                    R"(, "output_length": 1, "hash_ids": [)");
    for (uint64_t i = 0; i < blocks; ++i) absl::StrAppend(&trace, i == 0 ? "" : ", ", first_id + i);
    absl::StrAppend(&trace, "]}\n");
  };
  uint64_t one_off = 1'000'000, random = 1;
  for (uint64_t ms = 0; ms < 60 * 60'000; ms += 500) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const uint64_t chat = (random >> 48) % 200;
    if (chat < 40) {
      request(ms, chat * 1'000, 8 + ms / 300'000);
    } else {
      const uint64_t blocks = 1 + (random >> 33) % 12;
      request(ms, one_off, blocks);
      one_off += blocks;
    }
  }
  return trace;
}

// (policy, lane)
class ReplayTrace : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  // `trace`: a file, or - for `input`.
  void CompareWithSimulation(const std::string& trace, const std::string& capacity,
                             const std::string& input = "") {
    const auto& [policy, lane] = GetParam();
    const Json simulated =
        RunForJson({"simulate", "--trace", trace, "--policy", policy, "--capacity", capacity,
                    "--block-bytes", "1KiB", "-o", "json"},
                   input);
    const auto daemon =
        e2e::DaemonProcess::Start({.arguments = {"--capacity", "512MiB", "--allow-virtual-clock"},
                                   .config = "",
                                   .environment = {}});
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    const Json replayed =
        RunForJson({"--endpoint", lane + (*daemon)->socket_path(), "replay", "--virtual-clock",
                    "--clients", "4", "--trace", trace, "--block-bytes", "1KiB", "--blocks",
                    capacity, "--policy", policy, "-o", "json"},
                   input);
    EXPECT_EQ(replayed["lane"], lane == "unix:" ? "local" : "grpc");
    EXPECT_EQ(replayed["wrong_bytes"], 0);
    EXPECT_EQ(replayed["refused_blocks"], 0);
    EXPECT_EQ(replayed["unique_blocks"], simulated["unique_blocks"]);
    const double expected = simulated["rows"][0]["prefix_hit_ratio"];
    EXPECT_GT(expected, 0.05) << "nothing to compare";
    EXPECT_NEAR(replayed["prefix_hit_ratio"].get<double>(), expected,
                std::max(0.003, 0.02 * expected));
    // An object behind a hole of its chain is of no use.
    EXPECT_LE(replayed["object_hit_ratio"].get<double>(),
              replayed["prefix_hit_ratio"].get<double>() + 0.005);
    replayed_ratio_ = replayed["prefix_hit_ratio"];
    const uint64_t blocks = simulated["rows"][0]["capacity_blocks"];
    RecordProperty(absl::StrCat("simulated_", blocks), absl::StrCat(expected));
    RecordProperty(absl::StrCat("replayed_", blocks), absl::StrCat(replayed_ratio_));
  }

  // The second for `lru` alone, whose order can be foretold, and where that takes no minutes.
  static std::vector<const char*> Capacities(const char* every, const char* for_lru) {
    if (std::get<0>(GetParam()) != "lru" || kAddressSanitizer) return {every};
    return {every, for_lru};
  }

  double replayed_ratio_ = 0;
};

std::string PolicyAndLane(
    const ::testing::TestParamInfo<std::tuple<std::string, std::string>>& info) {
  return std::get<0>(info.param) + (std::get<1>(info.param) == "unix:" ? "Local" : "Grpc");
}
INSTANTIATE_TEST_SUITE_P(Policies, ReplayTrace,
                         ::testing::Combine(::testing::Values("auto", "lru"),
                                            ::testing::Values("unix:", "grpc+unix:")),
                         PolicyAndLane);

// Which takes ten seconds each. To fifo a use is nothing, but for what a chain goes on behind.
class ReplayRecordedTrace : public ReplayTrace {};
INSTANTIATE_TEST_SUITE_P(Policies, ReplayRecordedTrace,
                         ::testing::Values(std::tuple("auto", "unix:"), std::tuple("lru", "unix:"),
                                           std::tuple("lru", "grpc+unix:"),
                                           std::tuple("fifo", "unix:")),
                         PolicyAndLane);

TEST_P(ReplayTrace, AMadeOneHitsAsOftenAsTheSimulation) {
  for (const char* capacity : Capacities("1000", "500")) {
    SCOPED_TRACE(capacity);
    CompareWithSimulation("-", capacity, MadeTrace());
  }
}

TEST_P(ReplayRecordedTrace, ConversationHitsAsOftenAsTheSimulation) {
  const auto trace = FindRecordedTrace("conversation.jsonl");
  if (!trace) GTEST_SKIP() << "no conversation.jsonl in INFERCACHE_TRACE_DIR";
  for (const char* capacity : Capacities("10%", "2%")) {
    SCOPED_TRACE(capacity);
    CompareWithSimulation(*trace, capacity);
    // Of an LRU that shares no code with this one, in blocks of one size and without shards.
    if (std::get<0>(GetParam()) == "lru") {
      EXPECT_NEAR(replayed_ratio_, capacity == std::string("10%") ? 0.278 : 0.079, 0.005);
    }
  }
}

TEST(ReplayClock, IsTheDaemonsUnlessItPermitsAnother) {
  const auto daemon = e2e::DaemonProcess::Start(
      {.arguments = {"--capacity", "64MiB"}, .config = "", .environment = {}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const CtlResult result =
      RunCtl({"--endpoint", "unix:" + (*daemon)->socket_path(), "replay", "--virtual-clock",
              "--trace", "-", "--block-bytes", "1KiB", "--blocks", "100"},
             MadeTrace());
  EXPECT_EQ(result.exit_code, 4) << result.err;
  EXPECT_NE(result.err.find("allow_virtual_clock"), std::string::npos) << result.err;
}

}  // namespace
}  // namespace infercache::cli
