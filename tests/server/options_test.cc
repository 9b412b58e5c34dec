#include "server/options.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "server/text.h"

namespace infercache::server {
namespace {

TEST(OptionTable, KeysGiveTheFixedNames) {
  EXPECT_EQ(FlagName("grpc.listen"), "--grpc-listen");
  EXPECT_EQ(EnvironmentName("grpc.listen"), "INFERCACHE_GRPC_LISTEN");
  EXPECT_EQ(FlagName("grpc.max_pinned_bytes"), "--grpc-max-pinned-bytes");
  EXPECT_EQ(EnvironmentName("grpc.max_pinned_bytes"), "INFERCACHE_GRPC_MAX_PINNED_BYTES");
  std::set<std::string> flags;
  for (const auto& field : ConfigFields()) flags.insert(FlagName(field.key));
  for (const char* flag :
       {"--grpc-listen", "--http-listen", "--socket", "--capacity", "--log-level", "--log-format",
        "--pid-file", "--drain-timeout", "--insecure-listen", "--ready-file"}) {
    EXPECT_TRUE(flags.contains(flag)) << flag;
  }
}

TEST(OptionTable, EveryNameIsUniqueAndEverySentenceEnds) {
  std::set<std::string> flags, variables;
  for (const auto& field : ConfigFields()) {
    EXPECT_TRUE(flags.insert(FlagName(field.key)).second) << field.key;
    EXPECT_TRUE(variables.insert(EnvironmentName(field.key)).second) << field.key;
    EXPECT_FALSE(field.group.empty()) << field.key;
    EXPECT_EQ(field.help.back(), '.') << field.key;
  }
}

TEST(OptionTable, EveryDefaultIsAValueOfItsOption) {
  const Config defaults;
  for (const auto& field : ConfigFields()) {
    std::string text = ValueText(field, defaults);
    if (text.starts_with('"')) text = text.substr(1, text.size() - 2);
    Config config;
    EXPECT_TRUE(SetValue(field, text, config).ok()) << field.key << " = " << text;
    EXPECT_EQ(ValueText(field, config), ValueText(field, defaults)) << field.key;
  }
}

TEST(OptionTable, BoundsAreInclusive) {
  for (const auto& field : ConfigFields()) {
    if (!std::holds_alternative<uint64_t Config::*>(field.member)) continue;
    Config config;
    const std::string unit = field.kind == ValueKind::kDuration ? "ms" : "";
    EXPECT_TRUE(SetValue(field, Cat(field.min, unit), config).ok()) << field.key;
    EXPECT_TRUE(SetValue(field, Cat(field.max, unit), config).ok()) << field.key;
    if (field.min > 0) {
      EXPECT_FALSE(SetValue(field, Cat(field.min - 1, unit), config).ok()) << field.key;
    }
    EXPECT_FALSE(SetValue(field, Cat(field.max + 1, unit), config).ok()) << field.key;
  }
}

TEST(OptionTable, RefusesControlCharacters) {
  for (const auto& field : ConfigFields()) {
    if (field.key != "pid_file") continue;
    Config config;
    EXPECT_FALSE(SetValue(field, "a\nb", config).ok());
  }
}

}  // namespace
}  // namespace infercache::server
