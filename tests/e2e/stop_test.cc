// Stopping: what happens to calls in flight, to readiness and to files.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/unique_fd.h"
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

// A daemon whose standard error is a pipe that is full and that nobody reads.
class Unread {
 public:
  explicit Unread(const std::vector<std::string>& arguments) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    read_ = UniqueFd(ends[0]);
    const UniqueFd write_end(ends[1]);
    fcntl(write_end.get(), F_SETFL, O_NONBLOCK);
    while (write(write_end.get(), "x", 1) == 1) {
    }
    fcntl(write_end.get(), F_SETFL, 0);
    std::vector<std::string> words = {DaemonBinary(),
                                      "--capacity=64MiB",
                                      "--grpc-listen=127.0.0.1:0",
                                      "--http-listen=127.0.0.1:0",
                                      "--socket=" + socket(),
                                      "--ready-file=" + directory_.path() + "/ready"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDERR_FILENO);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    EXPECT_TRUE(
        Within30s([&] { return access((directory_.path() + "/ready").c_str(), F_OK) == 0; }));
  }
  ~Unread() {
    if (status_.has_value()) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Unread(const Unread&) = delete;
  Unread& operator=(const Unread&) = delete;

  std::string socket() const { return directory_.path() + "/s"; }
  // Again and again, or once, until it has ended. How.
  std::optional<int> Terminate(bool once) {
    bool sent = false;
    Within30s([&] {
      if (!sent || !once) kill(pid_, SIGTERM);
      sent = true;
      int status = 0;
      if (waitpid(pid_, &status, WNOHANG) == pid_) status_ = status;
      return status_.has_value();
    });
    return status_.has_value() ? std::optional(WEXITSTATUS(*status_)) : std::nullopt;
  }

 private:
  static bool Within30s(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return true;
  }

  const TemporaryDirectory directory_;
  UniqueFd read_;
  pid_t pid_ = -1;
  std::optional<int> status_;
};

// It waited for whoever reads its log, and a second signal did, too.
TEST(Stop, NobodyHasToReadWhatItLogs) {
  EXPECT_EQ(Unread({}).Terminate(/*once=*/true), 0);
  Unread daemon({"--drain-timeout=1h"});
  TestClient client("unix:" + daemon.socket());
  HalfPut put(client, "k");
  EXPECT_EQ(daemon.Terminate(/*once=*/false), 128 + SIGTERM);
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
