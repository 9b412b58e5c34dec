// The daemon's Unix socket: sessions and gRPC on one path, who is let in, and what is to be seen of
// it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <utility>

#include "client/cli/doctor_local.h"
#include "tests/e2e/daemon_process.h"
#include "tests/e2e/test_client.h"
#include "tests/local/raw_client.h"

namespace infercache::e2e {
namespace {

using testing::HasSubstr;

v1::Hello HelloTo(const std::string& ns) {
  v1::Hello hello;
  hello.set_version(1);
  hello.mutable_scope()->set_namespace_(ns);
  return hello;
}

absl::StatusOr<v1::Welcome> OpenSession(const DaemonProcess& daemon, const std::string& ns) {
  return cli::SayHello(daemon.socket_path(), HelloTo(ns), absl::Seconds(20));
}

v1::GetStatsResponse Stats(const DaemonProcess& daemon) {
  TestClient client("unix:" + daemon.socket_path());
  v1::GetStatsResponse response;
  const grpc::Status status =
      client.admin().GetStats(client.Context().get(), v1::GetStatsRequest(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

TEST(LocalLane, OneSocketServesSessionsAndGrpc) {
  const auto daemon = DaemonProcess::Start({.arguments = {"--arena-pages=4k"}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto welcome = OpenSession(**daemon, "default");
  ASSERT_TRUE(welcome.ok()) << welcome.status();
  EXPECT_EQ(welcome->put_access(), v1::Welcome::PUT_ACCESS_IN_PLACE);
  EXPECT_EQ(welcome->page_kind(), "4k");
  EXPECT_EQ(welcome->slot_limit(), 1024u);
  const v1::GetStatsResponse stats = Stats(**daemon);
  ASSERT_TRUE(stats.has_local());
  EXPECT_EQ(stats.local().sessions_opened(), 1u);
  EXPECT_EQ(stats.local().requests(), 1u);
  EXPECT_EQ(stats.namespaces(0).page_kind(), "4k");
  EXPECT_EQ((*daemon)->Stop(), 0);
  EXPECT_NE(access((*daemon)->socket_path().c_str(), F_OK), 0) << "the socket is removed";
}

TEST(LocalLane, OptionsReachIt) {
  const auto daemon =
      DaemonProcess::Start({.arguments = {"--local-pin-slots=64", "--local-pin-budget-divisor=8",
                                          "--local-reservation-timeout=7s", "--local-threads=1"}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto welcome = OpenSession(**daemon, "default");
  ASSERT_TRUE(welcome.ok()) << welcome.status();
  EXPECT_EQ(welcome->slot_limit(), 64u);
  EXPECT_EQ(welcome->pin_budget_bytes(), (uint64_t{32} << 20) / 8);
  EXPECT_EQ(welcome->reservation_timeout_ms(), 7'000u);
}

TEST(LocalLane, TheConfigurationSaysWhoMayUseAndWriteANamespace) {
  // No user has this number.
  const std::string nobody = "4000000001";
  const std::string me = std::to_string(geteuid());
  const auto daemon = DaemonProcess::Start(
      {.config = "namespaces:\n"
                 "  - {name: others, quota: 1MiB, grpc: open, local_users: [" +
                 nobody +
                 "]}\n"
                 "  - {name: mine, quota: 1MiB, grpc: open, local_users: [" +
                 me +
                 "]}\n"
                 "  - {name: read, quota: 1MiB, grpc: open, local_writers: [" +
                 nobody +
                 "]}\n"
                 "  - {name: sealed, quota: 1MiB, grpc: open, local_writers: []}\n"});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto others = OpenSession(**daemon, "others");
  EXPECT_EQ(others.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(others.status().message()), HasSubstr("local_users"));
  const auto access = [&](const std::string& ns) {
    const auto welcome = OpenSession(**daemon, ns);
    EXPECT_TRUE(welcome.ok()) << welcome.status();
    return welcome.ok() ? welcome->put_access() : v1::Welcome::PUT_ACCESS_NONE;
  };
  EXPECT_EQ(access("mine"), v1::Welcome::PUT_ACCESS_IN_PLACE);
  EXPECT_EQ(access("read"), v1::Welcome::PUT_ACCESS_NONE);
  EXPECT_EQ(access("sealed"), v1::Welcome::PUT_ACCESS_SEND);
  EXPECT_EQ(OpenSession(**daemon, "none").status().code(), absl::StatusCode::kNotFound);
}

TEST(LocalLane, AnUnknownUserIsAConfigurationError) {
  const TemporaryDirectory directory;
  const std::string file = directory.File(
      "c.yaml", "namespaces:\n  - {name: a, quota: 1MiB, local_users: [no-such-user-here]}\n");
  const auto run = RunDaemonToEnd({"--config", file, "--check-config"});
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->exit_code, kConfigError);
  EXPECT_THAT(run->err, HasSubstr(file + ":2"));
  EXPECT_THAT(run->err, HasSubstr("no-such-user-here"));
}

// A session that has begun a put.
class HalfSession {
 public:
  explicit HalfSession(const DaemonProcess& daemon)
      : client_(local::RawClient::Connect(daemon.socket_path())) {
    if (!client_.ok() || !client_->Open().ok()) return;
    v1::LocalRequest reserve;
    auto* item = reserve.mutable_reserve()->add_items();
    item->set_key("k");
    item->set_size_bytes(1000);
    const auto answer = client_->Ask(std::move(reserve));
    if (answer.ok()) reservation_ = answer->response.reserved().items(0).reservation();
  }

  bool ok() const { return reservation_ != 0; }
  local::RawClient& client() { return *client_; }
  absl::StatusOr<v1::LocalPutOutcome> Commit() {
    v1::LocalRequest commit;
    commit.mutable_commit()->add_reservations(reservation_);
    const auto answer = client_->Ask(std::move(commit));
    if (!answer.ok()) return answer.status();
    return answer->response.put_results().results(0).outcome();
  }

 private:
  absl::StatusOr<local::RawClient> client_;
  uint64_t reservation_ = 0;
};

TEST(LocalLane, StatisticsShowAnOpenSession) {
  const auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  HalfSession session(**daemon);
  ASSERT_TRUE(session.ok());
  const v1::GetStatsResponse stats = Stats(**daemon);
  EXPECT_EQ(stats.local().sessions(), 1u);
  EXPECT_EQ(stats.namespaces(0).local_sessions(), 1u);
  EXPECT_EQ(stats.namespaces(0).reservations(), 1u);
}

TEST(LocalLane, SigtermLetsASessionCommitWhatItHasBegun) {
  const auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  HalfSession session(**daemon);
  ASSERT_TRUE(session.ok());
  (*daemon)->Signal(SIGTERM);
  const auto goodbye = session.client().AwaitGoodbye();
  ASSERT_TRUE(goodbye.ok()) << goodbye.status();
  const auto outcome = session.Commit();
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_EQ(*outcome, v1::LOCAL_PUT_STORED);
  EXPECT_TRUE(session.client().AwaitClose().ok());
  EXPECT_EQ((*daemon)->Wait(), 0);
}

TEST(LocalLane, ASessionThatNeverCommitsIsCutOffAfterTheDrainTimeout) {
  const auto daemon = DaemonProcess::Start({.arguments = {"--drain-timeout=200ms"}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  HalfSession session(**daemon);
  ASSERT_TRUE(session.ok());
  (*daemon)->Signal(SIGTERM);
  EXPECT_TRUE(session.client().AwaitClose().ok());
  EXPECT_EQ((*daemon)->Wait(), 0);
}

}  // namespace
}  // namespace infercache::e2e
