#include "client/cli/trace.h"

#include <cstdio>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace infercache::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kGoodLine[] =
    R"({"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2353]})";

std::string LineError(std::string_view line, const TraceLimits& limits = {}) {
  const auto request = ParseTraceLine(line, limits);
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << line;
  return std::string(request.status().message());
}

std::string WithIds(int count) {
  std::string line = R"({"timestamp":0,"input_length":1,"output_length":1,"hash_ids":[)";
  for (int i = 0; i < count; ++i) line += (i == 0 ? "" : ",") + std::to_string(i);
  return line + "]}";
}

TEST(TraceLine, HasTheFourFields) {
  const auto request = ParseTraceLine(kGoodLine, {});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->timestamp_ms, 27482u);
  EXPECT_EQ(request->input_length, 6955u);
  EXPECT_EQ(request->output_length, 52u);
  EXPECT_THAT(request->ids, ElementsAre(46, 47, 2353));
}

TEST(TraceLine, MayHaveNoBlocksAndTheLargestNumbers) {
  const auto request = ParseTraceLine(
      R"({"hash_ids":[],"timestamp":18446744073709551615,"input_length":0,"output_length":0})", {});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->ids, IsEmpty());
  EXPECT_EQ(request->timestamp_ms, UINT64_MAX);
}

TEST(TraceLine, SkipsFieldsItDoesNotKnowWhateverIsInThem) {
  const auto request = ParseTraceLine(
      R"({"chat_id": -1, "x": {"hash_ids": [true, {"timestamp": 7}], "y": 1.5}, "timestamp": 1, )"
      R"("input_length": 2, "z": [[1, 2], null], "output_length": 3, "hash_ids": [9]})",
      {});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->timestamp_ms, 1u);
  EXPECT_THAT(request->ids, ElementsAre(9));
}

TEST(TraceLine, NamesTheMissingField) {
  EXPECT_THAT(LineError(R"({"timestamp":0,"input_length":1,"output_length":1})"),
              HasSubstr("field \"hash_ids\" is missing"));
  EXPECT_THAT(LineError(R"({"hash_ids":[1]})"), HasSubstr("field \"timestamp\" is missing"));
}

TEST(TraceLine, RefusesAFieldThatStandsTwice) {
  EXPECT_THAT(
      LineError(
          R"({"timestamp":0,"input_length":1,"timestamp":0,"output_length":1,"hash_ids":[]})"),
      HasSubstr("field \"timestamp\" stands twice"));
}

TEST(TraceLine, RefusesWrongTypesAndSaysWhere) {
  const std::string start = R"({"input_length":1,"output_length":1,"hash_ids":[1,2)";
  EXPECT_THAT(LineError(start + R"(,-3],"timestamp":0})"),
              HasSubstr("\"hash_ids\"[2] must be an unsigned integer, but is a negative number"));
  EXPECT_THAT(LineError(start + R"(,[3]],"timestamp":0})"), HasSubstr("\"hash_ids\"[2]"));
  EXPECT_THAT(LineError(start + R"(,{}],"timestamp":0})"), HasSubstr("but is an object"));
  EXPECT_THAT(LineError(start + R"(,1.5],"timestamp":0})"), HasSubstr("\"hash_ids\"[2]"));
  EXPECT_THAT(LineError(start + R"(,18446744073709551616],"timestamp":0})"),
              HasSubstr("not an unsigned 64-bit integer"));
  EXPECT_THAT(LineError(start + R"(],"timestamp":"0"})"),
              HasSubstr("\"timestamp\" must be an unsigned integer, but is a string"));
  EXPECT_THAT(LineError(start + R"(],"timestamp":null})"), HasSubstr("but is null"));
  EXPECT_THAT(LineError(R"({"hash_ids": 7})"),
              HasSubstr("\"hash_ids\" must be an array of unsigned integers, but is a number"));
}

TEST(TraceLine, RefusesWhatIsNoObject) {
  EXPECT_THAT(LineError("[1, 2]"), HasSubstr("must be a JSON object, but is an array"));
  EXPECT_THAT(LineError("7"), HasSubstr("must be a JSON object, but is a number"));
  EXPECT_THAT(LineError(""), HasSubstr("not a JSON object"));
  EXPECT_THAT(LineError(R"({"timestamp": 0,)"), HasSubstr("not a JSON object (at byte"));
  EXPECT_THAT(LineError(std::string(kGoodLine) + " {}"), HasSubstr("not a JSON object"));
  EXPECT_THAT(LineError("\xff\xfe"), HasSubstr("not a JSON object"));
}

TEST(TraceLine, KeepsTheLimitOfIds) {
  const TraceLimits limits{.max_line_bytes = 1 << 20, .max_ids_per_request = 100};
  EXPECT_TRUE(ParseTraceLine(WithIds(100), limits).ok());
  EXPECT_THAT(LineError(WithIds(101), limits), HasSubstr("\"hash_ids\" has more than 100 ids"));
}

TEST(TraceLine, KeepsTheLimitOfBytes) {
  const std::string line = kGoodLine;
  const TraceLimits enough{.max_line_bytes = line.size(), .max_ids_per_request = 100};
  const TraceLimits one_less{.max_line_bytes = line.size() - 1, .max_ids_per_request = 100};
  EXPECT_TRUE(ParseTraceLine(line, enough).ok());
  EXPECT_THAT(LineError(line, one_less), HasSubstr("at most " + std::to_string(line.size() - 1)));
}

TEST(TraceLine, StandsNestingThatWouldOverflowARecursiveParser) {
  const TraceLimits limits{.max_line_bytes = size_t{4} << 20, .max_ids_per_request = 1};
  const int depth = 1'000'000;
  const std::string deep = R"({"x":)" + std::string(depth, '[') + std::string(depth, ']') + "}";
  EXPECT_THAT(LineError(deep, limits), HasSubstr("field \"timestamp\" is missing"));
}

TEST(Trace, CountsBlocksAndUniqueBlocksOfAllLines) {
  const std::string text =
      std::string(kGoodLine) + "\n" +
      R"({"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [46, 47, 46, 5]})" +
      "\r\n";
  const auto trace = Trace::Parse(text, "t");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->requests().size(), 2u);
  EXPECT_THAT(trace->requests()[1].ids, ElementsAre(46, 47, 46, 5));
  EXPECT_EQ(trace->blocks(), 7u);
  EXPECT_EQ(trace->unique_blocks(), 4u);
}

TEST(Trace, NeedsNoEndOfTheLastLine) { EXPECT_TRUE(Trace::Parse(kGoodLine, "t").ok()); }

TEST(Trace, NamesFileAndLineOfTheFirstError) {
  const std::string good = std::string(kGoodLine) + "\n";
  const auto trace = Trace::Parse(good + good + "{}\n" + "nonsense\n", "some.jsonl");
  EXPECT_EQ(trace.status().message(), "some.jsonl:3: field \"timestamp\" is missing");
}

TEST(Trace, RefusesEmptyLinesAndEmptyFiles) {
  const std::string good = std::string(kGoodLine) + "\n";
  EXPECT_THAT(std::string(Trace::Parse(good + "\n" + good, "t").status().message()),
              testing::StartsWith("t:2: "));
  EXPECT_EQ(Trace::Parse("", "t").status().message(), "t:1: the trace is empty");
}

TEST(Trace, LoadsAFileAndSaysWhichOneItCannot) {
  const std::string path = testing::TempDir() + "/trace_test.jsonl";
  std::ofstream(path) << kGoodLine << "\n"
                      << "[]\n";
  const auto trace = Trace::Load(path);
  EXPECT_EQ(trace.status().message(), path + ":2: must be a JSON object, but is an array");
  std::remove(path.c_str());
  const auto missing = Trace::Load(path);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr(path));
}

}  // namespace
}  // namespace infercache::cli
