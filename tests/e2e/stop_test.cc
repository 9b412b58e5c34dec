// Stopping: what happens to calls in flight, to readiness and to files.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "tests/e2e/daemon_process.h"
#include "tests/e2e/http_get.h"
#include "tests/e2e/test_client.h"

namespace infercache::e2e {
namespace {

using testing::HasSubstr;

TEST(Stop, SigtermLetsACallInFlightFinish) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  TestClient client((*daemon)->grpc_address());
  HalfPut put(client, "k");
  (*daemon)->Signal(SIGTERM);
  ASSERT_TRUE((*daemon)->WaitForLog("draining"));
  EXPECT_EQ(Http((*daemon)->http_address(), "GET", "/readyz")->status, 503);
  EXPECT_EQ(Http((*daemon)->http_address(), "GET", "/livez")->status, 200);
  const grpc::Status status = put.Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(put.response().outcome(), v1::PUT_OUTCOME_STORED);
  EXPECT_EQ((*daemon)->Wait(), 0);
  EXPECT_THAT((*daemon)->log(), HasSubstr("reason=Terminated"));
  EXPECT_THAT((*daemon)->log(), HasSubstr("stopped"));
  EXPECT_NE(access((*daemon)->socket_path().c_str(), F_OK), 0) << "the socket file is gone";
}

TEST(Stop, SigintIsTheSame) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  (*daemon)->Signal(SIGINT);
  EXPECT_EQ((*daemon)->Wait(), 0);
  EXPECT_THAT((*daemon)->log(), HasSubstr("reason=Interrupt"));
}

TEST(Stop, ACallThatNeverEndsIsCutOffAfterTheDrainTimeout) {
  auto daemon = DaemonProcess::Start({.arguments = {"--drain-timeout=200ms"}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  TestClient client((*daemon)->grpc_address());
  HalfPut put(client, "k");
  (*daemon)->Signal(SIGTERM);
  const grpc::Status status = put.Await();
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << "the client's own";
  EXPECT_EQ((*daemon)->Wait(), 0);
}

TEST(Stop, ASecondSignalEndsItAtOnce) {
  auto daemon = DaemonProcess::Start({.arguments = {"--drain-timeout=1h"}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  TestClient client((*daemon)->grpc_address());
  HalfPut put(client, "k");
  (*daemon)->Signal(SIGTERM);
  ASSERT_TRUE((*daemon)->WaitForLog("draining"));
  EXPECT_EQ((*daemon)->Wait(std::chrono::milliseconds(100)), std::nullopt) << "it waits";
  (*daemon)->Signal(SIGTERM);
  EXPECT_EQ((*daemon)->Wait(), 128 + SIGTERM);
  EXPECT_THAT((*daemon)->log(), HasSubstr("second signal"));
  EXPECT_NE(access((*daemon)->socket_path().c_str(), F_OK), 0) << "the socket file is gone";
}

TEST(Stop, AdminDrainDoesWhatSigtermDoes) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  TestClient client("unix:" + (*daemon)->socket_path());
  HalfPut put(client, "k");
  EXPECT_TRUE(client.Drain().ok());
  ASSERT_TRUE((*daemon)->WaitForLog("draining"));
  EXPECT_THAT((*daemon)->log(), HasSubstr("reason=Admin.Drain"));
  EXPECT_TRUE(put.Finish().ok());
  EXPECT_EQ((*daemon)->Wait(), 0);
}

TEST(Stop, SighupReloadsTheLogLevel) {
  auto daemon = DaemonProcess::Start({.config = "log:\n  level: info\n"});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  (*daemon)->directory().File("config.yaml", R"(
log: {level: warn}
drain_timeout: 7s
namespaces: [{name: more, quota: 1MiB}]
auth: {credentials: [{name: worker, token: worker-token-0001, namespaces: [more]}]}
)");
  (*daemon)->Signal(SIGHUP);
  for (const char* key : {"key=drain_timeout", "key=namespaces"}) {
    ASSERT_TRUE((*daemon)->WaitForLog(key)) << "what needs a restart is named";
  }
  EXPECT_THAT((*daemon)->log(), testing::Not(HasSubstr("key=auth.credentials"))) << "applied";
  (*daemon)->directory().File("config.yaml", "log:\n  level: info\n  levl: 1\n");
  (*daemon)->Signal(SIGHUP);
  ASSERT_TRUE((*daemon)->WaitForLog("reload refused")) << (*daemon)->log();
  EXPECT_THAT((*daemon)->log(), HasSubstr("log.levl: unknown key"));
  EXPECT_EQ((*daemon)->Stop(), 0);
  EXPECT_THAT((*daemon)->log(), testing::Not(HasSubstr("stopped"))) << "info is off";
}

TEST(Stop, ABrokenPipeDoesNotKillIt) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  (*daemon)->Signal(SIGPIPE);
  EXPECT_EQ(Http((*daemon)->http_address(), "GET", "/livez")->status, 200);
  EXPECT_EQ((*daemon)->Stop(), 0);
}

}  // namespace
}  // namespace infercache::e2e
