// `infercachectl doctor` itself, with the real daemon and without one.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/ctl_process.h"
#include "tests/e2e/daemon_process.h"

namespace infercache::cli {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

constexpr int kUnreachable = 3;

std::map<std::string, Json> ByCheck(const Json& report) {
  std::map<std::string, Json> by_check;
  for (const Json& finding : report["findings"]) by_check[finding["check"]] = finding;
  return by_check;
}

TEST(Doctor, SeesADaemonOfThisMachine) {
  const auto daemon = e2e::DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const CtlResult result =
      RunCtl({"doctor", "--endpoint", "unix:" + (*daemon)->socket_path(), "-o", "json"});
  EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
  const Json report = Json::parse(result.out);
  EXPECT_EQ(report["endpoint"], "unix:" + (*daemon)->socket_path());
  const auto findings = ByCheck(report);
  for (const char* check : {"endpoint", "grpc", "unix_socket", "http", "version", "local_lane",
                            "memfd_sealing", "madv_populate_write", "page_size", "memory"}) {
    ASSERT_TRUE(findings.contains(check)) << check;
    EXPECT_EQ(findings.at(check)["level"], "ok") << findings.at(check);
  }
  for (const char* check :
       {"arena_pages", "peer_pidfd", "thp", "hugetlb", "memlock", "file_descriptors",
        "cgroup_memory", "swap", "overcommit", "cpus", "container"}) {
    EXPECT_TRUE(findings.contains(check)) << check;
  }
  // The daemon was found by its process id, and its capacity is the one it was started with.
  EXPECT_THAT(findings.at("file_descriptors")["found"].get<std::string>(),
              HasSubstr("the daemon)"));
  EXPECT_THAT(findings.at("memory")["found"].get<std::string>(), HasSubstr("may cache 64 MiB"));
  EXPECT_THAT(findings.at("http")["found"].get<std::string>(),
              HasSubstr((*daemon)->http_address()));
}

// Within the usual limit of 8 MiB of locked memory, whoever runs this.
TEST(Doctor, KnowsThatADaemonLocksItsMemory) {
  const auto daemon = e2e::DaemonProcess::Start(
      {.arguments = {"--lock-memory", "--capacity=64MiB", "--default-quota=4MiB"}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const CtlResult result =
      RunCtl({"doctor", "--endpoint", "unix:" + (*daemon)->socket_path(), "-o", "json"});
  const auto findings = ByCheck(Json::parse(result.out));
  EXPECT_THAT(findings.at("memlock")["found"].get<std::string>(), HasSubstr("lock_memory is on"));
}

TEST(Doctor, LooksAtTheMachineWithoutADaemon) {
  const std::string nowhere = "unix:" + testing::TempDir() + "/no-daemon-here";
  const CtlResult result = RunCtl({"doctor", "--endpoint", nowhere, "-o", "json"});
  EXPECT_EQ(result.exit_code, kUnreachable) << result.err;
  const auto findings = ByCheck(Json::parse(result.out));
  EXPECT_EQ(findings.at("endpoint")["level"], "fail");
  EXPECT_THAT(findings.at("endpoint")["advice"].get<std::string>(), HasSubstr("start infercached"));
  EXPECT_EQ(findings.at("memfd_sealing")["level"], "ok");
  EXPECT_TRUE(findings.contains("memory"));
  EXPECT_FALSE(findings.contains("version"));

  const CtlResult table = RunCtl({"doctor", "--endpoint", nowhere});
  EXPECT_EQ(table.exit_code, kUnreachable);
  EXPECT_THAT(table.out, HasSubstr("\nfail   endpoint"));
  EXPECT_THAT(table.out, HasSubstr("-> start infercached"));
}

TEST(Doctor, AnEndpointThatMakesNoSenseIsUsage) {
  EXPECT_EQ(RunCtl({"doctor", "--endpoint", "unix:"}).exit_code, 2);
}

}  // namespace
}  // namespace infercache::cli
