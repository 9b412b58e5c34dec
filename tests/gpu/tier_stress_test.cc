// A tier that evicts all the time, or whose objects move down, workers that write, read, hold and
// check, and kills at random moments of their work: no byte may be wrong, nobody may hang, and
// everything comes back.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/chaos/worker_process.h"
#include "tests/gpu/gpu_local_fixture.h"
#include "tests/helper_path.h"

namespace infercache::gpu {
namespace {

using chaos::WorkerProcess;
using std::chrono::steady_clock;

constexpr int kWorkers = 3;
constexpr std::chrono::seconds kRunTime{6};

class TierStress : public GpuLocalFixture, public ::testing::WithParamInterface<bool> {
 protected:
  std::unique_ptr<WorkerProcess> StartWorker() {
    auto worker =
        WorkerProcess::Start(HelperPath(GPU_WORKER_BINARY),
                             {socket_path(), device_.uuid, demotes_ ? "blocks" : "traffic"});
    EXPECT_TRUE(worker.ok()) << worker.status();
    return *std::move(worker);
  }
  // It has done something. Each kill finds its victim somewhere in its work.
  static void AwaitWork(WorkerProcess& worker) {
    const auto line = worker.ReadLine(std::chrono::seconds(60));
    ASSERT_TRUE(line.ok()) << line.status();
    ASSERT_EQ(*line, "traffic");
  }
  struct Seen {
    int hits = 0, host_hits = 0;
  };
  // Ends as it would end by itself, and says what it saw.
  static Seen ExpectEndsWell(WorkerProcess& worker) {
    worker.EndInput();
    const auto line = worker.ReadLine(std::chrono::seconds(60));
    EXPECT_TRUE(line.ok()) << line.status();
    const int status = worker.Wait();
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    if (!line.ok()) return {};
    std::printf("  %s\n", line->c_str());
    int wrong = -1, rounds = 0;
    Seen seen;
    EXPECT_EQ(std::sscanf(line->c_str(), "%d wrong %d rounds %d hits %d in host", &wrong, &rounds,
                          &seen.hits, &seen.host_hits),
              4);
    EXPECT_EQ(wrong, 0);
    return seen;
  }
};

TEST_P(TierStress, NoByteIsWrongUnderEvictionAndKills) {
  demotes_ = GetParam();
  ServeTier();
  fake_cuda::Use tier_alone;
  if (is_fake()) tier_alone = fake().UseOf(0);
  std::mt19937_64 random(20261125);
  std::vector<std::unique_ptr<WorkerProcess>> workers;
  for (int i = 0; i < kWorkers; ++i) workers.push_back(StartWorker());
  for (const auto& worker : workers) AwaitWork(*worker);
  // The first lives on, through all that the others leave behind.
  int kills = 0;
  for (const auto end = steady_clock::now() + kRunTime; steady_clock::now() < end; ++kills) {
    std::unique_ptr<WorkerProcess>& victim = workers[1 + random() % (kWorkers - 1)];
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    victim->Signal(SIGKILL);
    // One that has found something wrong has ended by itself.
    const int status = victim->Wait();
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    victim = StartWorker();
    AwaitWork(*victim);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(kills, 0);
  const store::NamespaceStats before = Tier()->Stats();
  EXPECT_GT(before.evicted, 100u) << "there was no pressure";
  const Seen seen = ExpectEndsWell(*workers[0]);
  EXPECT_GT(seen.hits, 100);
  EXPECT_EQ(before.demoted > 0, demotes_) << before.demoted;
  EXPECT_EQ(seen.host_hits > 0, demotes_) << seen.host_hits;
  for (int i = 1; i < kWorkers; ++i) ExpectEndsWell(*workers[i]);
  for (const store::NamespaceVerbs& ns : {Tier(), store::NamespaceVerbs(Host())}) {
    EXPECT_TRUE(local::Eventually([&] {
      const store::NamespaceStats stats = ns->Stats();
      return stats.reservations == 0 && stats.client_pins == 0 && stats.client_pages == 0 &&
             stats.pins == 0 && stats.limbo_bytes == 0 && stats.quarantined_bytes == 0 &&
             stats.used_bytes == stats.visible_bytes;
    })) << "not all has come back to "
        << ns->spec().name;
  }
  if (is_fake()) {
    EXPECT_EQ(fake().UseOf(0), tier_alone);
  }
  std::printf("  %d killed, %llu evicted, %llu of them moved down\n", kills,
              static_cast<unsigned long long>(before.evicted),
              static_cast<unsigned long long>(before.demoted));
}

INSTANTIATE_TEST_SUITE_P(Demotion, TierStress, ::testing::Bool(),
                         [](const auto& test) { return std::string(test.param ? "On" : "Off"); });

}  // namespace
}  // namespace infercache::gpu
