#include <gtest/gtest.h>

#include <string>

#include "client/examples/prefill_demo/turn_report.h"

namespace infercache::demo {
namespace {

TurnReport Example() {
  TurnReport report;
  report.turn = 2;
  report.prompt_tokens = 5200;
  report.reused_tokens = 5120;
  report.fetch_seconds = 0.25;
  report.compute_seconds = 1.5;
  report.store_seconds = 0.125;
  report.stored_blocks = 3;
  report.existing_blocks = 17;
  report.cache_error = "no \"answer\"";
  report.answer = "line\nbreak \\ quote \"";
  report.logit_bits = {0, 0x80000000, 0x7fc00001, 0xffffffff};
  return report;
}

TEST(TurnReport, SurvivesItsLineOfJson) {
  const TurnReport sent = Example();
  const std::string line = ToJson(sent);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const absl::StatusOr<TurnReport> got = TurnReportFromJson(line);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->turn, sent.turn);
  EXPECT_EQ(got->prompt_tokens, sent.prompt_tokens);
  EXPECT_EQ(got->reused_tokens, sent.reused_tokens);
  EXPECT_EQ(got->fetch_seconds, sent.fetch_seconds);
  EXPECT_EQ(got->compute_seconds, sent.compute_seconds);
  EXPECT_EQ(got->store_seconds, sent.store_seconds);
  EXPECT_EQ(got->stored_blocks, sent.stored_blocks);
  EXPECT_EQ(got->existing_blocks, sent.existing_blocks);
  EXPECT_EQ(got->cache_error, sent.cache_error);
  EXPECT_EQ(got->answer, sent.answer);
  EXPECT_EQ(got->logit_bits, sent.logit_bits);
}

TEST(TurnReport, RefusesWhatItDidNotWrite) {
  const std::string good = ToJson(Example());
  std::string wrong_type = good;
  wrong_type.replace(wrong_type.find("5200"), 4, "\"x\"");
  std::string missing = good;
  missing.replace(missing.find("\"answer\":"), 9, "\"reply\":");
  std::string bad_list = good;
  bad_list.replace(bad_list.find("2147483648"), 10, "null");
  for (const std::string& line :
       {std::string(), std::string("hello"), std::string("[]"), std::string("{}"),
        good.substr(0, good.size() / 2), wrong_type, missing, bad_list}) {
    EXPECT_EQ(TurnReportFromJson(line).status().code(), absl::StatusCode::kInvalidArgument) << line;
  }
}

}  // namespace
}  // namespace infercache::demo
