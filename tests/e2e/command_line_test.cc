// What the binary says and how it exits when it does not serve.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/e2e/daemon_process.h"

namespace infercache::e2e {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

constexpr int kUsage = 2;

TEST(Binary, HelpIsShort) {
  const auto run = RunDaemonToEnd({"--help"});
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit_code, 0);
  EXPECT_THAT(run->out, HasSubstr("--grpc-listen HOST:PORT"));
  EXPECT_EQ(run->err, "");
}

TEST(Binary, VersionNamesBuildAndGrpc) {
  const auto run = RunDaemonToEnd({"--version"});
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit_code, 0);
  EXPECT_THAT(run->out, HasSubstr("infercached 0."));
  EXPECT_THAT(run->out, HasSubstr("revision  "));
  EXPECT_THAT(run->out, HasSubstr("gRPC      1."));
}

TEST(Binary, UsageErrorsExitWith2) {
  for (const char* argument : {"--no-such-flag", "--capacity=lots", "serve"}) {
    const auto run = RunDaemonToEnd({argument});
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_EQ(run->exit_code, kUsage) << argument;
    EXPECT_THAT(run->err, HasSubstr("Try 'infercached --help'"));
    EXPECT_EQ(run->out, "");
  }
}

TEST(Binary, CheckConfigSaysOkOrFileAndLine) {
  const TemporaryDirectory directory;
  const std::string good = directory.File("good.yaml", "capacity: 1GiB\n");
  const auto ok = RunDaemonToEnd({"--check-config", "--config", good});
  ASSERT_TRUE(ok.ok()) << ok.status();
  EXPECT_EQ(ok->exit_code, 0);
  EXPECT_EQ(ok->out, "configuration ok: " + good + "\n");

  const std::string bad =
      directory.File("bad.yaml", "capacity: 1GiB\ngrpc:\n  listn: 127.0.0.1:0\n  reflection: 7\n");
  for (const char* action : {"--check-config", "--print-config", "--log-level=info"}) {
    const auto run = RunDaemonToEnd({action, "--config", bad});
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_EQ(run->exit_code, kConfigError) << action;
    EXPECT_EQ(run->err, "infercached: " + bad +
                            ":3: grpc.listn: unknown key; did you mean \"grpc.listen\"?\n"
                            "infercached: " +
                            bad + ":4: grpc.reflection: expected true or false, got \"7\"\n");
  }
}

TEST(Binary, PrintConfigIsAConfigurationWithTheSameMeaning) {
  const TemporaryDirectory directory;
  const std::map<std::string, std::string> environment = {{"INFERCACHE_CAPACITY", "3GiB"}};
  const auto first = RunDaemonToEnd({"--print-config", "--log-level=debug"}, environment);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->exit_code, 0);
  EXPECT_THAT(first->out, HasSubstr("\ncapacity: 3GiB\n"));
  EXPECT_THAT(first->out, HasSubstr("  level: debug\n"));
  const std::string file = directory.File("printed.yaml", first->out);
  const auto second = RunDaemonToEnd({"--print-config", "--config", file});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->out, first->out);
}

TEST(Binary, AWrongEnvironmentIsAConfigurationError) {
  const auto run = RunDaemonToEnd({}, {{"INFERCACHE_CAPACITY", "lots"}});
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit_code, kConfigError);
  EXPECT_THAT(run->err, HasSubstr("INFERCACHE_CAPACITY: expected a size"));
}

TEST(Binary, ACheckReadsTheTlsFiles) {
  const auto run = RunDaemonToEnd(
      {"--check-config", "--tls-cert-file=/does/not/exist", "--tls-key-file=/does/not/exist"});
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit_code, kConfigError);
  EXPECT_THAT(run->err, HasSubstr("tls.cert_file: cannot read /does/not/exist"));
}

}  // namespace
}  // namespace infercache::e2e
