#include "common/quantities.h"

#include <gtest/gtest.h>

#include <limits>

namespace infercache {
namespace {

constexpr uint64_t kLargest = std::numeric_limits<int64_t>::max();

TEST(ParseSize, ReadsBinaryAndDecimalUnits) {
  EXPECT_EQ(*ParseSize("0"), 0u);
  EXPECT_EQ(*ParseSize("4096"), 4096u);
  EXPECT_EQ(*ParseSize("17B"), 17u);
  EXPECT_EQ(*ParseSize("1k"), 1000u);
  EXPECT_EQ(*ParseSize("1KB"), 1000u);
  EXPECT_EQ(*ParseSize("1Ki"), 1024u);
  EXPECT_EQ(*ParseSize("1KiB"), 1024u);
  EXPECT_EQ(*ParseSize("512MiB"), uint64_t{512} << 20);
  EXPECT_EQ(*ParseSize("10gb"), uint64_t{10'000'000'000});
  EXPECT_EQ(*ParseSize("8Gi"), uint64_t{8} << 30);
  EXPECT_EQ(*ParseSize(" 1.5 GiB "), uint64_t{3} << 29);
  EXPECT_EQ(*ParseSize("1TiB"), uint64_t{1} << 40);
  EXPECT_EQ(*ParseSize("2P"), uint64_t{2'000'000'000'000'000});
}

TEST(ParseSize, IsExact) {
  EXPECT_EQ(*ParseSize("9007199254740993"), 9007199254740993u) << "no double";
  EXPECT_EQ(*ParseSize("9223372036854775807"), kLargest);
  EXPECT_EQ(*ParseSize("0.001k"), 1u);
}

TEST(ParseSize, RefusesWhatIsNoWholeNumberOfBytes) {
  for (const char* text : {"",
                           "GiB",
                           "KiB",
                           "-1",
                           "1.",
                           ".",
                           "1x",
                           "12Q",
                           "8EiB",
                           "0.3",
                           "0.1KiB",
                           "1 2",
                           "4 096",
                           "1e9",
                           "9e9",
                           "1.2.3k",
                           "1..5K",
                           "1Kib b",
                           "1GiB1",
                           "0x10",
                           "nan",
                           "9223372036854775808",
                           "99999999999999999999999",
                           "10000000TiB",
                           "99999999PiB"}) {
    EXPECT_EQ(ParseSize(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ParseDurationMs, NeedsAUnit) {
  EXPECT_EQ(*ParseDurationMs("0"), 0u);
  EXPECT_EQ(*ParseDurationMs("100ms"), 100u);
  EXPECT_EQ(*ParseDurationMs("1.5s"), 1500u);
  EXPECT_EQ(*ParseDurationMs("5m"), 300'000u);
  EXPECT_EQ(*ParseDurationMs("2h"), 7'200'000u);
  EXPECT_EQ(*ParseDurationMs("7d"), 604'800'000u);
  for (const char* text : {"", "30", "-1s", "1.2345s", "s", "1 year", "00"}) {
    EXPECT_EQ(ParseDurationMs(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ParseDurationMs, AddsUp) {
  EXPECT_EQ(*ParseDurationMs("1h30m"), 5'400'000u);
  EXPECT_EQ(*ParseDurationMs("1m 5s"), 65'000u);
  EXPECT_EQ(*ParseDurationMs("9223372036854775807ms"), kLargest);
  for (const char* text : {"9223372036854775807ms1ms", "9223372036854775808ms", "1h30"}) {
    EXPECT_FALSE(ParseDurationMs(text).ok()) << text;
  }
}

TEST(Quantities, ErrorsSayWhatWasExpectedAndHideNoControlCharacter) {
  EXPECT_EQ(ParseSize("8\n").status().message(),
            "expected a size such as 512MiB or 10GB, got \"8\\n\"");
  EXPECT_EQ(ParseDurationMs("5").status().message(),
            "expected a duration such as 100ms, 30s or 5m, got \"5\"");
}

}  // namespace
}  // namespace infercache
