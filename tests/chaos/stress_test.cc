// The whole lane under stress, as real processes: a daemon that evicts all the time, readers that
// check every byte of every view, writers, and kills at random moments, of workers and (now and
// then) of the daemon itself. Everything must come back.
//
//   stress_test [--seconds=N]     default 8; an hour is --seconds=3600

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/build_kind.h"
#include "tests/chaos/number_option.h"
#include "tests/chaos/worker_process.h"
#include "tests/e2e/daemon_process.h"
#include "tests/e2e/test_client.h"

namespace infercache::chaos {
namespace {

using std::chrono::steady_clock;

std::chrono::seconds run_time{8};

constexpr int kReaders = 4;
constexpr int kWriters = 2;

class Stress : public ::testing::Test {
 protected:
  void StartDaemon(const std::string& socket = "") {
    std::vector<std::string> arguments = {"--capacity", "24MiB", "--default-quota", "16MiB"};
    if (!socket.empty()) arguments.insert(arguments.end(), {"--socket", socket});
    auto started = e2e::DaemonProcess::Start({.arguments = arguments});
    ASSERT_TRUE(started.ok()) << started.status();
    daemon_ = *std::move(started);
  }

  std::unique_ptr<WorkerProcess> StartWorker(const std::string& socket, int i) {
    auto worker = WorkerProcess::Start(
        STRESS_WORKER_BINARY,
        {"unix:" + socket, i < kReaders ? "reader" : "writer", std::to_string(random_())});
    EXPECT_TRUE(worker.ok()) << worker.status();
    return *std::move(worker);
  }

  v1::NamespaceStats Stats() {
    e2e::TestClient client(daemon_->grpc_address());
    v1::GetStatsResponse stats;
    const grpc::Status status = client.Stats(stats);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return stats.namespaces(0);
  }

  // What is left of its output, of which no line may tell of a wrong byte or a call that hung.
  // Returns the last line.
  static std::string ExpectNothingWrong(WorkerProcess& worker) {
    std::string last;
    while (true) {
      const auto line = worker.ReadLine(std::chrono::seconds(60));
      if (!line.ok()) {
        EXPECT_TRUE(absl::IsUnavailable(line.status())) << line.status();
        return last;
      }
      last = *line;
      EXPECT_EQ(last.find("WRONG"), std::string::npos) << last;
      EXPECT_EQ(last.find("HANG"), std::string::npos) << last;
    }
  }

  // Ends a worker as it would end by itself, and looks at how. One that does nothing shows nothing.
  void ExpectEndsWell(WorkerProcess& worker, bool reader) {
    worker.EndInput();
    const std::string last = ExpectNothingWrong(worker);
    const int status = worker.Wait();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << last << ", status " << status;
    unsigned long long hits = 0, misses = 0, stored = 0;
    EXPECT_EQ(sscanf(last.c_str(), "%llu hits %llu misses %llu stored", &hits, &misses, &stored),
              3);
    EXPECT_GT(reader ? hits : stored, 10u) << last;
    std::cout << "  " << last << std::endl;
  }

  void ExpectEverythingComesBack() {
    const auto deadline = steady_clock::now() + std::chrono::seconds(30);
    v1::NamespaceStats stats;
    do {
      stats = Stats();
    } while (steady_clock::now() < deadline &&
             (stats.reservations() != 0 || stats.pins() != 0 || stats.local_pins() != 0 ||
              stats.limbo_bytes() != 0 || stats.quarantined_bytes() != 0));
    EXPECT_EQ(stats.reservations(), 0u);
    EXPECT_EQ(stats.pins(), 0u);
    EXPECT_EQ(stats.local_pins(), 0u);
    EXPECT_EQ(stats.limbo_bytes(), 0u);
    EXPECT_EQ(stats.quarantined_bytes(), 0u);
    EXPECT_EQ(stats.used_bytes(), stats.visible_bytes());
    EXPECT_LE(stats.used_bytes(), stats.quota_bytes());
    std::cout << "  daemon: " << stats.stored() << " stored, " << stats.evicted() << " evicted"
              << std::endl;
  }

  std::mt19937_64 random_{20261125};
  std::unique_ptr<e2e::DaemonProcess> daemon_;
};

TEST_F(Stress, ReadersWritersAndKills) {
  StartDaemon();
  std::vector<std::unique_ptr<WorkerProcess>> workers;
  for (int i = 0; i < kReaders + kWriters; ++i) {
    workers.push_back(StartWorker(daemon_->socket_path(), i));
  }
  uint64_t kills = 0;
  for (const auto end = steady_clock::now() + run_time; steady_clock::now() < end;) {
    // The first and the last live on, one of each kind: a call that hangs takes longer to show than
    // the others have.
    const size_t i = 1 + random_() % (workers.size() - 2);
    // Each kill finds its victim somewhere in its work.
    const auto line = workers[i]->ReadLine(std::chrono::seconds(60));
    ASSERT_TRUE(line.ok()) << line.status();
    ASSERT_EQ(*line, "running");
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 50'000));
    workers[i]->Signal(SIGKILL);
    // It may have found something wrong before.
    ExpectNothingWrong(*workers[i]);
    const int status = workers[i]->Wait();
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "status " << status;
    ++kills;
    workers[i] = StartWorker(daemon_->socket_path(), static_cast<int>(i));
  }
  EXPECT_GT(kills, 0u);
  EXPECT_GT(Stats().evicted(), 100u) << "there was no pressure";
  // The last ones may be young: they get the time to have done something.
  for (const auto& worker : workers) {
    const auto line = worker->ReadLine(std::chrono::seconds(60));
    EXPECT_TRUE(line.ok() && *line == "running") << line.status();
  }
  std::this_thread::sleep_for(std::chrono::seconds(1));
  for (size_t i = 0; i < workers.size(); ++i) ExpectEndsWell(*workers[i], i < kReaders);
  ExpectEverythingComesBack();
  std::cout << "  " << kills << " workers killed" << std::endl;
  EXPECT_EQ(daemon_->Stop(), 0);
}

// Workers go on without a restart when their daemon does not.
TEST_F(Stress, TheDaemonIsKilledAndComesBack) {
  const e2e::TemporaryDirectory directory;  // outlives any one daemon
  const std::string path = directory.path() + "/infercached.sock";
  StartDaemon(path);
  std::vector<std::unique_ptr<WorkerProcess>> workers;
  for (int i = 0; i < kReaders + kWriters; ++i) workers.push_back(StartWorker(path, i));
  for (const auto& worker : workers) {
    const auto line = worker->ReadLine(std::chrono::seconds(60));
    ASSERT_TRUE(line.ok()) << line.status();
  }
  for (int restart = 0; restart < 3; ++restart) {
    ASSERT_GT(Stats().stored(), 0u);
    daemon_->Signal(SIGKILL);
    daemon_->Wait();
    daemon_.reset();
    StartDaemon(path);
    // The workers find the new one by themselves.
    const auto deadline = steady_clock::now() + std::chrono::seconds(30);
    while (Stats().local_sessions() < workers.size() || Stats().stored() == 0) {
      ASSERT_LT(steady_clock::now(), deadline) << Stats().local_sessions() << " sessions";
    }
  }
  // The readers get the time to have found something.
  for (const auto deadline = steady_clock::now() + std::chrono::seconds(30);
       Stats().hits() < 100 * kReaders;) {
    ASSERT_LT(steady_clock::now(), deadline) << Stats().hits() << " hits";
  }
  for (size_t i = 0; i < workers.size(); ++i) ExpectEndsWell(*workers[i], i < kReaders);
  ExpectEverythingComesBack();
  EXPECT_EQ(daemon_->Stop(), 0);
}

}  // namespace
}  // namespace infercache::chaos

int main(int argc, char** argv) {
  using infercache::chaos::NumberOption;
  infercache::chaos::run_time = std::chrono::seconds(NumberOption(
      argc, argv, "--seconds=", static_cast<int>(infercache::chaos::run_time.count())));
  return RUN_ALL_TESTS();
}
