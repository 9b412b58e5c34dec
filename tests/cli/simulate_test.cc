// infercachectl simulate: on a small trace of its own, and, where they are, on recorded ones
// against what the policies are meant to reach.

#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/ctl_process.h"
#include "tests/cli/recorded_trace.h"

namespace infercache::cli {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

// Two prompts that take turns, and share their first block.
std::string SmallTrace() {
  std::string text;
  for (int i = 0; i < 10; ++i) {
    const char* ids = i % 2 == 0 ? "[1, 2, 3]" : "[1, 4, 5]";
    text += "{\"timestamp\": " + std::to_string(i * 1000) +
            ", \"input_length\": 1500, \"output_length\": 10, \"hash_ids\": " + ids + "}\n";
  }
  return text;
}

Json Simulate(const std::vector<std::string>& arguments, const std::string& input = "") {
  std::vector<std::string> all = {"simulate"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  all.insert(all.end(), {"-o", "json"});
  const CtlResult result = RunCtl(all, input);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  Json json = Json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(json.is_discarded()) << result.out;
  return json;
}

TEST(Simulate, CountsHitsOfASmallTrace) {
  const Json json = Simulate(
      {"--trace", "-", "--policy", "lru,auto", "--capacity", "5,3", "--shards", "4"}, SmallTrace());
  EXPECT_EQ(json["blocks"], 30);
  EXPECT_EQ(json["unique_blocks"], 5);
  ASSERT_EQ(json["rows"].size(), 6u);
  const Json& all = json["rows"][0];
  EXPECT_EQ(all["policy"], "lru");
  EXPECT_EQ(all["capacity"], "5");
  EXPECT_EQ(all["capacity_blocks"], 5);
  // The first request misses three, the second two; then everything is there.
  EXPECT_DOUBLE_EQ(all["prefix_hit_ratio"].get<double>(), 25.0 / 30);
  EXPECT_DOUBLE_EQ(all["object_hit_ratio"].get<double>(), 25.0 / 30);
  EXPECT_GT(all["ns_per_op"].get<double>(), 0);
  EXPECT_GE(all["bytes_per_object"].get<double>(), 20);
  EXPECT_EQ(json["rows"][1]["policy"], "auto");
  // Room for three: LRU keeps the shared block alone, the optimum one of the prompts as well.
  EXPECT_DOUBLE_EQ(json["rows"][3]["prefix_hit_ratio"].get<double>(), 9.0 / 30);
  const Json& optimum = json["rows"][5];
  EXPECT_EQ(optimum["policy"], "belady");
  EXPECT_DOUBLE_EQ(optimum["prefix_hit_ratio"].get<double>(), 17.0 / 30);
  EXPECT_TRUE(optimum["ns_per_op"].is_null());
}

TEST(Simulate, PrintsATable) {
  const CtlResult result =
      RunCtl({"simulate", "--trace", "-", "--policy", "fifo", "--capacity", "60%"}, SmallTrace());
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("POLICY"));
  EXPECT_THAT(result.out, HasSubstr("fifo"));
  EXPECT_THAT(result.out, HasSubstr("60%"));
  EXPECT_THAT(result.out, HasSubstr("belady"));
}

TEST(Simulate, SaysWhatIsWrong) {
  const auto error = [](const std::vector<std::string>& arguments, const std::string& input) {
    const CtlResult result = RunCtl(arguments, input);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    return result.err;
  };
  EXPECT_THAT(error({"simulate", "--trace", "-", "--policy", "lru", "--capacity", "10%"},
                    SmallTrace() + "{\"timestamp\": 1}\n"),
              HasSubstr("standard input:11: field \"input_length\" is missing"));
  EXPECT_THAT(error({"simulate", "--trace", "-", "--policy", "lru,best", "--capacity", "10%"}, ""),
              HasSubstr("unknown policy 'best'; there are auto, lru"));
  EXPECT_THAT(error({"simulate", "--trace", "-", "--policy", "lru", "--capacity", "10%,x"}, ""),
              HasSubstr("x"));
  EXPECT_THAT(
      error({"simulate", "--trace", "-", "--policy", "lru", "--capacity", "1", "--shards", "3"},
            SmallTrace()),
      HasSubstr("--shards must be a power of two"));
}

// By policy and capacity.
using Ratios = std::map<std::pair<std::string, std::string>, double>;

// What an LRU list alone has that is told a request's blocks from the last to the first, in percent
// of all blocks: another program's numbers.
struct PlainLru {
  const char* capacity;
  double prefix_percent;
};

class RecordedTrace : public ::testing::Test {
 protected:
  // Runs lru and auto, with the index in one shard and in 64, and fifo, which has the most holes;
  // checks what holds for every trace.
  void Run(const std::string& name, const std::vector<PlainLru>& plain_lru) {
    const auto trace = FindRecordedTrace(name);
    if (!trace) GTEST_SKIP() << "no " << name << " in INFERCACHE_TRACE_DIR";
    std::string capacities;
    for (const PlainLru& cell : plain_lru) {
      capacities += (capacities.empty() ? "" : ",") + std::string(cell.capacity);
    }
    const auto run = [&](const std::string& policies, const std::string& shards) {
      return Take(Simulate(
          {"--trace", *trace, "--policy", policies, "--capacity", capacities, "--shards", shards}));
    };
    ratios_ = run("lru,auto,fifo", "1");
    Ratios sharded = run("lru,auto", "64");
    for (const PlainLru& cell : plain_lru) {
      SCOPED_TRACE(cell.capacity);
      const double lru = ratios_[{"lru", cell.capacity}];
      EXPECT_NEAR(lru, cell.prefix_percent / 100, 0.002);
      EXPECT_GE((sharded[{"lru", cell.capacity}]), 0.995 * lru);
      EXPECT_GE((ratios_[{"auto", cell.capacity}]), 0.97 * lru);
      EXPECT_GE((sharded[{"auto", cell.capacity}]), (0.985 * ratios_[{"auto", cell.capacity}]));
    }
  }
  double OfOptimum(const std::string& capacity) {
    return ratios_[{"auto", capacity}] / ratios_[{"belady", capacity}];
  }

  Ratios ratios_;

 private:
  // The prefix hit ratios; what is hit behind a hole of its chain is next to nothing.
  static Ratios Take(const Json& simulated) {
    Ratios ratios;
    for (const Json& row : simulated["rows"]) {
      const double prefix = row["prefix_hit_ratio"], object = row["object_hit_ratio"];
      ratios[{row["policy"], row["capacity"]}] = prefix;
      EXPECT_LE(object - prefix, 0.005) << row;
    }
    return ratios;
  }
};

TEST_F(RecordedTrace, ConversationMeetsItsGoals) {
  Run("conversation.jsonl",
      {{"1%", 5.25}, {"2%", 7.9}, {"5%", 19.6}, {"10%", 27.9}, {"20%", 34.5}, {"50%", 36.3}});
  if (IsSkipped()) return;
  EXPECT_GE(OfOptimum("1%"), 0.42);
  EXPECT_GE(OfOptimum("5%"), 0.56);
  EXPECT_GE(OfOptimum("10%"), 0.80);
  EXPECT_GE(OfOptimum("20%"), 0.93);
  EXPECT_NEAR((ratios_[{"belady", "1%"}]), 0.2464, 0.0001);
}

TEST_F(RecordedTrace, SyntheticMeetsItsGoals) {
  Run("synthetic.jsonl",
      {{"1%", 3.8}, {"2%", 7.8}, {"5%", 15.7}, {"10%", 26.2}, {"20%", 39.3}, {"50%", 58.9}});
  if (IsSkipped()) return;
  EXPECT_GE(OfOptimum("5%"), 0.40);
  EXPECT_GE(OfOptimum("20%"), 0.66);
}

}  // namespace
}  // namespace infercache::cli
