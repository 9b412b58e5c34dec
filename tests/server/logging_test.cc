#include "server/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace infercache::server {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

// Log() into a string.
class LogLines : public testing::Test {
 protected:
  ~LogLines() override { spdlog::set_default_logger(before_); }

  void Use(std::string_view format) {
    auto logger = std::make_shared<spdlog::logger>(
        "infercached", std::make_shared<spdlog::sinks::ostream_sink_mt>(stream_));
    logger->set_formatter(MakeLogFormatter(format));
    spdlog::set_default_logger(std::move(logger));
  }
  std::string Take() {
    std::string text = stream_.str();
    stream_.str("");
    return text;
  }

  const std::shared_ptr<spdlog::logger> before_ = spdlog::default_logger();
  std::ostringstream stream_;
};

TEST_F(LogLines, TextIsOneLineWithFields) {
  Use("text");
  Log(spdlog::level::info, "ready", {{"grpc", "127.0.0.1:7400"}, {"pid", "7"}});
  EXPECT_THAT(Take(), MatchesRegex("20[0-9-]+T[0-9:]+[.][0-9][0-9][0-9]Z info ready "
                                   "grpc=127.0.0.1:7400 pid=7\n"));
}

TEST_F(LogLines, JsonIsOneObjectWithFields) {
  Use("json");
  Log(spdlog::level::err, "cannot listen", {{"address", "a=b \"c\""}});
  const std::string line = Take();
  ASSERT_EQ(line.back(), '\n');
  const auto object = nlohmann::json::parse(line);
  EXPECT_EQ(object.at("level"), "error");
  EXPECT_EQ(object.at("msg"), "cannot listen");
  EXPECT_EQ(object.at("address"), "a=b \"c\"");
  EXPECT_THAT(object.at("ts").get<std::string>(), MatchesRegex("20[0-9-]+T[0-9:.]+Z"));
}

TEST_F(LogLines, PlainSpdlogCallsAreLinesToo) {
  Use("json");
  spdlog::warn("peer {} said {}", "x", 3);
  const auto object = nlohmann::json::parse(Take());
  EXPECT_EQ(object.at("msg"), "peer x said 3");
  EXPECT_EQ(object.at("level"), "warn");
}

TEST_F(LogLines, WhatAPeerSendsCannotForgeALineOrAField) {
  const std::string hostile = "a\nb\x1fmsg=forged\x01\xff";
  Use("text");
  Log(spdlog::level::info, "key", {{"key", hostile}});
  std::string line = Take();
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  Use("json");
  Log(spdlog::level::info, "key", {{"key", hostile}});
  line = Take();
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const auto object = nlohmann::json::parse(line);
  EXPECT_EQ(object.at("msg"), "key");
  EXPECT_THAT(object.at("key").get<std::string>(), HasSubstr("forged"));
}

TEST_F(LogLines, TheLevelIsAppliedAndToldBack) {
  Use("text");
  ASSERT_TRUE(SetLogLevel("warn").ok());
  Log(spdlog::level::info, "quiet");
  EXPECT_EQ(Take(), "");
  EXPECT_EQ(*SetLogLevel("debug"), "warn");
  Log(spdlog::level::debug, "loud");
  EXPECT_THAT(Take(), HasSubstr("debug loud"));
  const auto bad = SetLogLevel("LOUD");
  EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(bad.status().message()), HasSubstr("trace, debug, info, warn, error"));
}

TEST(Logging, WritesWhatIsQueuedBeforeItGoes) {
  testing::internal::CaptureStderr();
  {
    Logging logging("info", "text");
    for (int i = 0; i < 1000; ++i) Log(spdlog::level::info, "line", {{"i", std::to_string(i)}});
  }
  Log(spdlog::level::info, "after");
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr("line i=0\n"));
  EXPECT_THAT(text, HasSubstr("line i=999\n"));
  EXPECT_THAT(text, HasSubstr("after\n"));
}

}  // namespace
}  // namespace infercache::server
