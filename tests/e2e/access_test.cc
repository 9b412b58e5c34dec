// Who is let in by the running daemon.

#include <gtest/gtest.h>

#include <csignal>
#include <memory>
#include <string>

#include "tests/e2e/daemon_process.h"
#include "tests/e2e/test_client.h"

namespace infercache::e2e {
namespace {

using grpc::StatusCode;

class Access : public testing::Test {
 protected:
  void SetUp() override {
    auto daemon = DaemonProcess::Start({.config = R"(
namespaces:
  - {name: open, quota: 8MiB, grpc: open}
  - {name: closed, quota: 8MiB}
  - {name: strict, quota: 8MiB, grpc: open, require: {model: llama}}
auth:
  loopback_admin: none
  credentials:
    - {name: worker, token: worker-token-0001, namespaces: [closed]}
    - {name: operator, token: operator-token-01, admin: true}
)"});
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
  }

  StatusCode Put(const std::string& ns, const std::string& token) {
    TestClient client(daemon_->grpc_address(), token);
    return client.Put(ns, "k", "v").error_code();
  }
  StatusCode Stats(const std::string& token) {
    TestClient client(daemon_->grpc_address(), token);
    v1::GetStatsResponse stats;
    return client.Stats(stats).error_code();
  }

  std::unique_ptr<DaemonProcess> daemon_;
};

TEST_F(Access, AnOpenNamespaceNeedsNoCredentialOnLoopback) {
  EXPECT_EQ(Put("open", ""), StatusCode::OK);
}

TEST_F(Access, AClosedNamespaceNeedsTheRightCredential) {
  EXPECT_EQ(Put("closed", ""), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Put("closed", "worker-token-0002"), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Put("closed", "operator-token-01"), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Put("closed", "worker-token-0001"), StatusCode::OK);
}

TEST_F(Access, AdminNeedsAnAdminCredentialWhereLoopbackIsNotEnough) {
  EXPECT_EQ(Stats(""), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Stats("worker-token-0001"), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Stats("operator-token-01"), StatusCode::OK);
}

// Whoever reaches it by default is no more than a user of it: a worker cannot end the daemon.
TEST(DefaultAccess, OverTcpLoopbackMayAskAndChangeNothing) {
  auto daemon = DaemonProcess::Start();
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  TestClient worker((*daemon)->grpc_address());
  v1::GetStatsResponse stats;
  EXPECT_TRUE(worker.Stats(stats).ok());
  EXPECT_EQ(worker.Drain().error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(worker.Put("default", "k", "v").ok());
  EXPECT_EQ((*daemon)->Stop(), 0);
}

TEST(Reload, ANewTokenTakesAReloadAndNoRestart) {
  const TemporaryDirectory directory;
  const std::string token_file = directory.File("token", "the-first-token-01");
  auto daemon = DaemonProcess::Start({.config = R"(
namespaces:
  - {name: closed, quota: 8MiB}
auth:
  credentials:
    - {name: worker, token_file: )" + token_file +
                                                ", namespaces: [closed]}\n"});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  const auto put = [&daemon](const std::string& token) {
    return TestClient((*daemon)->grpc_address(), token).Put("closed", "k", "v").error_code();
  };
  EXPECT_EQ(put("the-first-token-01"), StatusCode::OK);
  directory.File("token", "the-second-token-2");
  (*daemon)->Signal(SIGHUP);
  ASSERT_TRUE((*daemon)->WaitForLog("credentials=changed")) << (*daemon)->log();
  EXPECT_EQ(put("the-first-token-01"), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(put("the-second-token-2"), StatusCode::OK);

  directory.File("token", "short");
  (*daemon)->Signal(SIGHUP);
  ASSERT_TRUE((*daemon)->WaitForLog("reload refused")) << (*daemon)->log();
  EXPECT_EQ(put("the-second-token-2"), StatusCode::OK);
}

TEST(DefaultAccess, TheDaemonsUserAdministratesOverTheSocket) {
  // Whatever loopback may do, and with nobody else named.
  auto daemon =
      DaemonProcess::Start({.arguments = {"--auth-loopback-admin=none", "--auth-socket-admins="}});
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  EXPECT_EQ(TestClient((*daemon)->grpc_address()).Drain().error_code(),
            StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(TestClient("unix:" + (*daemon)->socket_path()).Drain().ok());
  EXPECT_EQ((*daemon)->Wait(), 0);
}

TEST_F(Access, ANamespaceThatDemandsAFingerprintRefusesAnother) {
  EXPECT_EQ(Put("strict", ""), StatusCode::FAILED_PRECONDITION);
}

}  // namespace
}  // namespace infercache::e2e
