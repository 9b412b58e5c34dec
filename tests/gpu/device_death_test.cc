// Workers with a GPU's memory that are killed, at each step of what they do.

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "tests/build_kind.h"
#include "tests/chaos/worker_process.h"
#include "tests/gpu/gpu_local_fixture.h"
#include "tests/helper_path.h"

namespace infercache::gpu {
namespace {

using chaos::WorkerProcess;
using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPromised{100};
constexpr int kRounds = Scaled(1'000);
constexpr bool kSlowBuild = kThreadSanitizer || kAddressSanitizer;

struct DeviceStep {
  const char* name;
  bool stuck = false;    // streams are, so that the worker dies in the middle
  bool dies = false;     // the worker's context dies while it stays there
  bool refused = false;  // events are
  uint64_t reservations = 0;
  uint64_t pins = 0;
};
constexpr DeviceStep kDeviceSteps[] = {
    {.name = "open"},
    {.name = "reserved", .reservations = 1},
    {.name = "writing", .stuck = true, .reservations = 1},
    {.name = "committed"},
    {.name = "pinned", .pins = 1},
    {.name = "for_stream", .stuck = true, .pins = 1},
    {.name = "dying", .stuck = true, .dies = true, .reservations = 1, .pins = 1},
    {.name = "copying", .stuck = true, .refused = true, .pins = 1},
};

class DeviceDeath : public GpuLocalFixture, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    GpuLocalFixture::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    demotes_ = GetParam();
    ServeTier({.quota_bytes = 16 * kMiB});
    auto lease = Tier().TryReserve("there", 1000);
    ASSERT_TRUE(lease.ok() && lease->has_value());
    ASSERT_TRUE(Tier()->Commit(**std::move(lease)).ok());
    if (is_fake()) tier_alone_ = fake().UseOf(0);
  }

  bool NothingIsHeld() {
    const store::NamespaceStats stats = Tier()->Stats();
    return server_->stats().sessions == 0 && stats.reservations == 0 && stats.client_pages == 0 &&
           stats.client_pins == 0 && stats.quarantined_bytes == 0;
  }
  void KillOneAt(const DeviceStep& step) {
    if (step.stuck) fake().StickStreams();
    fake().faults().refuse_records.store(step.refused ? 1 : 0);
    auto worker = WorkerProcess::Start(HelperPath(GPU_WORKER_BINARY),
                                       {socket_path(), device_.uuid, step.name});
    ASSERT_TRUE(worker.ok()) << worker.status();
    const auto line = (*worker)->ReadLine();
    ASSERT_TRUE(line.ok()) << line.status();
    ASSERT_EQ(*line, step.name);
    const store::NamespaceStats held = Tier()->Stats();
    ASSERT_EQ(held.reservations, step.reservations);
    ASSERT_EQ(held.client_pins, step.pins);
    if (step.dies) {
      fake().faults().contexts_dead.store(1);
      ASSERT_TRUE(local::Eventually([&] { return Tier()->Stats().client_pins == 0; }));
      // A copy that was begun may still end: nobody else is given its room.
      ASSERT_EQ(Tier()->Stats().reservations, step.reservations);
      fake().faults().contexts_dead.store(0);
    }
    (*worker)->Signal(SIGKILL);
    const steady_clock::time_point died = (*worker)->AwaitDeath();
    while (!NothingIsHeld() && steady_clock::now() - died < std::chrono::seconds(30)) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    ASSERT_TRUE(NothingIsHeld());
    const auto took = steady_clock::now() - died;
    slowest_ = std::max<steady_clock::duration>(slowest_, took);
    if (!kSlowBuild) {
      EXPECT_LE(took, kPromised) << step.name;
    }
    if (is_fake()) {
      ASSERT_EQ(fake().UseOf(0), tier_alone_) << step.name;
    }
    fake().FreeStreams();
  }
  // What workers have committed goes first.
  void ExpectAllThatWasCommittedMovesDown() {
    fake().ClearFaults();
    for (int i = 0; i < 128; ++i) {
      auto lease = Tier().TryReserve("filler" + std::to_string(i), uint64_t{64} << 10);
      ASSERT_TRUE(lease.ok() && lease->has_value()) << lease.status();
      ASSERT_TRUE(Tier()->Commit(**std::move(lease)).ok());
      ASSERT_TRUE(local::Eventually([this] { return AllHasMovedDown(); }));
    }
    const store::NamespaceVerbs host(Host());
    const std::vector<std::string> keys = host.Keys("worker");
    EXPECT_GT(keys.size(), 0u);
    for (const std::string& key : keys) {
      EXPECT_TRUE(host.Get(key) == std::string(uint64_t{64} << 10, 'w')) << key;
    }
  }
  // A real driver takes no faults, and does not tell what processes hold.
  std::vector<DeviceStep> Steps() const {
    std::vector<DeviceStep> steps;
    for (const DeviceStep& step : kDeviceSteps) {
      const bool needs_fake = step.stuck || step.refused;
      // The daemon's context would die with the worker's: they have one process's faults.
      if (demotes_ && step.dies) continue;
      if (is_fake() || !needs_fake) steps.push_back(step);
    }
    return steps;
  }

  fake_cuda::Use tier_alone_;
  steady_clock::duration slowest_{};
};

TEST_P(DeviceDeath, AtEachStepEverythingIsGivenBack) {
  for (const DeviceStep& step : Steps()) {
    SCOPED_TRACE(step.name);
    KillOneAt(step);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(Tier()->Stats().objects, 2u) << "what was committed stays, and nothing else";
}

TEST_P(DeviceDeath, AThousandTimesLeavesTheGpuAsItWas) {
  const std::vector<DeviceStep> steps = Steps();
  // A real driver takes half a second to begin in a process.
  const int rounds = is_fake() ? kRounds : kRounds / 50;
  for (int round = 0; round < rounds; ++round) {
    KillOneAt(steps[static_cast<size_t>(round) % steps.size()]);
    if (HasFatalFailure()) return;
  }
  EXPECT_TRUE(Tier().Has("there"));
  if (demotes_) ExpectAllThatWasCommittedMovesDown();
  std::printf("slowest of %d: everything given back %.1f ms after the kernel said so\n", rounds,
              std::chrono::duration<double, std::milli>(slowest_).count());
}

INSTANTIATE_TEST_SUITE_P(Demotion, DeviceDeath, ::testing::Bool(),
                         [](const auto& test) { return std::string(test.param ? "On" : "Off"); });

}  // namespace
}  // namespace infercache::gpu
