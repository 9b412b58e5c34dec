// A worker's CUDA context that dies, as it does after an illegal access of any kernel of its
// process, while a call waits for a stream of it: nothing of the call's is published.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>

#include "tests/chaos/worker_process.h"
#include "tests/gpu/gpu_local_fixture.h"
#include "tests/helper_path.h"

namespace infercache::gpu {
namespace {

using chaos::WorkerProcess;
using local::Eventually;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class ContextDeath : public GpuLocalFixture {
 protected:
  void SetUp() override {
    GpuLocalFixture::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (!is_fake()) GTEST_SKIP() << "takes a fault";
    ServeTier();
    auto lease = Tier().TryReserve("there", 500);
    ASSERT_TRUE(lease.ok() && lease->has_value());
    ASSERT_TRUE(Tier()->Commit(**std::move(lease)).ok());
  }
  void TearDown() override {
    worker_.reset();
    GpuLocalFixture::TearDown();
  }

  // The worker is in its call, which the stream does not let come to an end.
  void StartAt(const char* step) {
    fake().StickStreams();
    auto worker =
        WorkerProcess::Start(HelperPath(GPU_WORKER_BINARY), {socket_path(), device_.uuid, step});
    ASSERT_TRUE(worker.ok()) << worker.status();
    worker_ = *std::move(worker);
    ASSERT_EQ(Line(), step);
    // Its answer comes neither now nor for as long as the stream is stuck.
    ASSERT_TRUE(Eventually([this] { return Tier()->Stats().reservations == 2; }));
    ASSERT_TRUE(absl::IsDeadlineExceeded(worker_->ReadLine(std::chrono::seconds(1)).status()));
  }
  std::string Line() {
    const auto line = worker_->ReadLine();
    EXPECT_TRUE(line.ok()) << line.status();
    return line.value_or("");
  }
  // What the call answers, at once and not at its deadline.
  void DieAndExpectRefusal() {
    const auto begin = std::chrono::steady_clock::now();
    fake().faults().contexts_dead.store(1);
    for (int item = 0; item < 2; ++item) {
      EXPECT_THAT(Line(), AllOf(StartsWith("refused: "), HasSubstr("CUDA_ERROR_"),
                                Not(HasSubstr("DEADLINE_EXCEEDED"))));
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(15));
    EXPECT_EQ(Line(), "let go");
    ExpectNothingPublished();
    // Not later either, when the stream would have gone on.
    fake().FreeStreams();
    ExpectNothingPublished();
  }
  void ExpectNothingPublished() {
    EXPECT_FALSE(Tier().Has("new"));
    EXPECT_EQ(Tier()->Stats().objects, 1u);
    const auto there = Tier().Lookup("there");
    ASSERT_TRUE(there.has_value());
    EXPECT_EQ(there->size_bytes(), 500u) << "what was there, stays";
  }
  void KillAndExpectAllIsBack() {
    worker_->Signal(SIGKILL);
    worker_->AwaitDeath();
    EXPECT_TRUE(Eventually([this] {
      const store::NamespaceStats stats = Tier()->Stats();
      return stats.reservations == 0 && stats.quarantined_bytes == 0;
    }));
    ExpectNothingPublished();
  }

  std::unique_ptr<WorkerProcess> worker_;
};

// What it reserved is still its own, to give back.
TEST_F(ContextDeath, DuringACommit) {
  StartAt("committing");
  DieAndExpectRefusal();
  EXPECT_TRUE(Eventually([this] { return Tier()->Stats().reservations == 0; }));
  KillAndExpectAllIsBack();
}

// Nobody says that the GPU's engines have stopped: what its copies were to write stays taken until
// the process ends.
TEST_F(ContextDeath, DuringAPut) {
  StartAt("putting");
  DieAndExpectRefusal();
  EXPECT_EQ(Tier()->Stats().reservations, 2u);
  KillAndExpectAllIsBack();
}

}  // namespace
}  // namespace infercache::gpu
