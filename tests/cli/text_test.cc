// Keys, quantities, tables and JSON as infercachectl reads and prints them.

#include <string>

#include "client/cli/keys.h"
#include "client/cli/object_text.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/cli/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "infercache/v1/admin.pb.h"
#include "nlohmann/json.hpp"

namespace infercache::cli {
namespace {

using testing::HasSubstr;

TEST(EscapeKey, LeavesPrintableUtf8Alone) {
  EXPECT_EQ(EscapeKey("block/42 \"x\""), "block/42 \"x\"");
  EXPECT_EQ(EscapeKey("caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"),
            "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
}

TEST(EscapeKey, EscapesBackslashControlAndInvalidBytes) {
  EXPECT_EQ(EscapeKey("a\\b"), R"(a\\b)");
  EXPECT_EQ(EscapeKey(std::string_view("\0\n\x7f", 3)), R"(\x00\x0a\x7f)");
  EXPECT_EQ(EscapeKey("\xff\xc3("), R"(\xff\xc3()");
  EXPECT_EQ(EscapeKey("\xc2\x80"), R"(\xc2\x80)") << "C1 control character";
  EXPECT_EQ(EscapeKey("\xc0\xaf"), R"(\xc0\xaf)") << "overlong";
  EXPECT_EQ(EscapeKey("\xe0\x80\xaf"), R"(\xe0\x80\xaf)") << "overlong";
  EXPECT_EQ(EscapeKey("\xed\xa0\x80"), R"(\xed\xa0\x80)") << "surrogate";
  EXPECT_EQ(EscapeKey("\xf4\x90\x80\x80"), R"(\xf4\x90\x80\x80)") << "above U+10FFFF";
  EXPECT_EQ(EscapeKey("\xe2\x82"), R"(\xe2\x82)") << "cut off";
}

TEST(EscapeKey, IsUndoneByUnescapeKeyForEveryPairOfBytes) {
  for (int first = 0; first < 256; ++first) {
    for (int second = 0; second < 256; ++second) {
      const std::string key = {static_cast<char>(first), static_cast<char>(second)};
      const auto back = UnescapeKey(EscapeKey(key));
      ASSERT_TRUE(back.ok()) << back.status();
      ASSERT_EQ(*back, key);
    }
  }
}

TEST(EscapeKey, IsAlwaysValidJsonText) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string key(1, static_cast<char>(byte));
    EXPECT_NO_THROW(Json(EscapeKey(key)).dump()) << byte;
  }
}

TEST(UnescapeKey, RefusesWhatIsNoEscape) {
  for (const char* text : {R"(a\)", R"(\x4)", R"(\xg0)", R"(\n)", R"(\x)"}) {
    EXPECT_EQ(UnescapeKey(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_THAT(std::string(UnescapeKey(R"(ab\q)").status().message()), HasSubstr("at byte 2"));
  EXPECT_EQ(UnescapeKey("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*UnescapeKey(R"(\xfF\\)"), "\xff\\");
}

TEST(ParseDuration, WantsAUnitAndAPositiveTime) {
  EXPECT_EQ(*ParseDuration("250ms"), absl::Milliseconds(250));
  EXPECT_EQ(*ParseDuration("7d"), absl::Hours(7 * 24)) << "as in the daemon's configuration";
  for (const char* text : {"", "5", "-5s", "0", "0s", "5 parsecs"}) {
    EXPECT_EQ(ParseDuration(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(BlockBudget, IsACountOrAShare) {
  EXPECT_EQ(ParseBlockBudget("18279")->Resolve(5), 18279u);
  EXPECT_EQ(ParseBlockBudget("10%")->Resolve(182'790), 18'279u);
  EXPECT_EQ(ParseBlockBudget("2.5%")->Resolve(100), 3u) << "rounded";
  EXPECT_EQ(ParseBlockBudget("0.01%")->Resolve(100), 1u) << "at least one";
  EXPECT_EQ(ParseBlockBudget("100%")->Resolve(7), 7u);
  for (const char* text : {"", "%", "0", "0%", "-1", "101%", "1.5", "ten", "10%%", "nan%"}) {
    EXPECT_EQ(ParseBlockBudget(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(FormatSize, HasAboutThreeDigits) {
  EXPECT_EQ(FormatSize(0), "0 B");
  EXPECT_EQ(FormatSize(1023), "1023 B");
  EXPECT_EQ(FormatSize(1024), "1 KiB");
  EXPECT_EQ(FormatSize(1536), "1.50 KiB");
  EXPECT_EQ(FormatSize(1024 * 1024 - 1), "1.00 MiB");
  EXPECT_EQ(FormatSize(123.4 * 1024 * 1024), "123 MiB");
}

TEST(FormatElapsed, ChoosesTheUnit) {
  EXPECT_EQ(FormatElapsed(absl::Nanoseconds(57)), "0.06 us");
  EXPECT_EQ(FormatElapsed(absl::Microseconds(12.34)), "12.3 us");
  EXPECT_EQ(FormatElapsed(absl::Milliseconds(2500)), "2.50 s");
  EXPECT_EQ(FormatElapsed(absl::Seconds(125)), "2 m 05 s");
  EXPECT_EQ(FormatElapsed(absl::Minutes(61)), "1 h 01 m");
  EXPECT_EQ(FormatElapsed(absl::Hours(49)), "2 d 01 h");
}

TEST(FormatCount, AndRatio) {
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(5678), "5.68 k");
  EXPECT_EQ(FormatCount(12'345'678), "12.3 M");
  EXPECT_EQ(FormatRatio(0.27891), "27.89 %");
}

TEST(Table, AlignsItsColumns) {
  Table table({{"NAME", Table::Align::kLeft}, {"SIZE"}, {"KEY", Table::Align::kLeft}});
  table.AddRow({"a", "1 KiB", "x"});
  table.AddRow({"longer name", "12", "y"});
  table.AddRow({"caf\xc3\xa9", "3", "z"});
  EXPECT_EQ(table.Text(),
            "NAME          SIZE  KEY\n"
            "a            1 KiB  x\n"
            "longer name     12  y\n"
            "caf\xc3\xa9             3  z\n");
}

TEST(FieldsText, AlignsTheValues) {
  EXPECT_EQ(FieldsText({{"a", "1"}, {"long", "2"}}), "a     1\nlong  2\n");
}

v1::GetStatsResponse Stats() {
  v1::GetStatsResponse stats;
  auto* ns = stats.add_namespaces();
  ns->set_name("default");
  ns->set_used_bytes(uint64_t{1} << 60);
  ns->set_saved_compute_seconds(2.5);
  return stats;
}

TEST(MessageJson, WritesNumbersAsNumbers) {
  const Json json = Json::parse(JsonLine(MessageJson(Stats())));
  EXPECT_EQ(json["namespaces"][0]["name"], "default");
  ASSERT_TRUE(json["namespaces"][0]["used_bytes"].is_number_unsigned());
  EXPECT_EQ(json["namespaces"][0]["used_bytes"].get<uint64_t>(), uint64_t{1} << 60);
  EXPECT_EQ(json["namespaces"][0]["saved_compute_seconds"], 2.5);
  EXPECT_EQ(json["calls_in_flight"], 0) << "defaults are written too";
}

TEST(MessageJson, EscapesBytesLikeKeys) {
  v1::FlushRequest request;
  request.set_key_prefix("\xff/");
  EXPECT_EQ(MessageJson(request)["key_prefix"], R"(\xff/)");
}

TEST(MessageFields, HaveUnits) {
  const Fields fields = MessageFields(Stats().namespaces(0));
  EXPECT_THAT(fields, testing::Contains(testing::Pair("used_bytes", "1024 PiB")));
  EXPECT_THAT(fields, testing::Contains(testing::Pair("saved_compute_seconds", "2.50 s")));
}

TEST(JsonLine, IsOneLineOfValidUtf8) {
  EXPECT_EQ(JsonLine({{"a", 1}, {"b", "x\ny"}}), "{\"a\":1,\"b\":\"x\\ny\"}\n");
  EXPECT_EQ(JsonLine({{"a", "\xff"}}), "{\"a\":\"\xef\xbf\xbd\"}\n");
}

TEST(PartsText, SummarisesManyParts) {
  const PartSpec bytes{DataType::kBytes, {}, 10};
  const PartSpec tensor{DataType::kFloat16, {2, 8}, 32};
  EXPECT_EQ(PartsText({bytes}), "bytes");
  EXPECT_EQ(PartsText({tensor, bytes}), "float16[2,8] bytes");
  EXPECT_EQ(PartsText(std::vector<PartSpec>(12, tensor)), "12 x float16[2,8]");
  EXPECT_EQ(PartsText({tensor, tensor, tensor, tensor, bytes}), "5 parts");
}

TEST(ProgressLine, FillsFromLeftToRight) {
  EXPECT_EQ(ProgressLine("x", 0, 10, absl::Seconds(1)), "x [..............................]   0 %");
  EXPECT_EQ(ProgressLine("x", 5, 10, absl::Seconds(2)),
            "x [###############...............]  50 %  2 s left");
  EXPECT_THAT(ProgressLine("x", 20, 10, absl::Seconds(2)), HasSubstr("] 100 %"));
}

}  // namespace
}  // namespace infercache::cli
