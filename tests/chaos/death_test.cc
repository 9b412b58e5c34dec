// Workers that are killed, stopped or half gone at each step of the protocol, as real processes.

#include <signal.h>

#include <chrono>
#include <iostream>
#include <string>

#include "tests/build_kind.h"
#include "tests/chaos/steps.h"
#include "tests/chaos/worker_process.h"
#include "tests/local/local_fixture.h"

namespace infercache::chaos {

void PrintTo(const Step& step, std::ostream* out) { *out << step.name; }

namespace {

using local::EndReason;
using local::Eventually;
using local::LocalFixture;
using std::chrono::steady_clock;

// After the kernel reports the death. Slow builds and a machine that is busy with other tests get
// more time; what it really took is printed.
constexpr std::chrono::milliseconds kPromised{100};

class AtEachStep : public LocalFixture, public ::testing::WithParamInterface<Step> {
 protected:
  void SetUp() override {
    Create("default", 8 * kMiB);
    Serve();
    other_ = std::make_unique<local::Worker>(Open());
    other_->Put("visible", std::string(kObjectBytes, 'v'));
    ns_ = *store_->FindNamespace("default");
  }
  void TearDown() override {
    worker_.reset();
    other_.reset();
    ns_.reset();
    LocalFixture::TearDown();
  }

  // A worker that has come to the step, and holds what it should.
  void Start(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {socket_path(), GetParam().name};
    arguments.insert(arguments.end(), more.begin(), more.end());
    auto started = WorkerProcess::Start(WORKER_BINARY, arguments);
    ASSERT_TRUE(started.ok()) << started.status();
    worker_ = *std::move(started);
    const auto line = worker_->ReadLine();
    ASSERT_TRUE(line.ok()) << line.status();
    ASSERT_EQ(*line, std::string("at ") + GetParam().name);
    ASSERT_TRUE(Eventually([this] {
      const store::NamespaceStats stats = ns_->Stats();
      return server_->stats().sessions == 1u + (GetParam().session ? 1 : 0) &&
             stats.reservations == (GetParam().reservation ? 1u : 0u) &&
             stats.client_pins == (GetParam().pin ? 1u : 0u) &&
             stats.pins == (GetParam().lease ? 1u : 0u) &&
             stats.claims.claims == (GetParam().claim ? 1u : 0u) &&
             (!GetParam().perhaps_committed || stats.objects == 2);
    })) << "it does not hold what it should";
  }

  bool NothingIsHeld() {
    const store::NamespaceStats stats = ns_->Stats();
    return server_->stats().sessions == 1 && stats.reservations == 0 && stats.client_pins == 0 &&
           stats.pins == 0 && stats.claims.claims == 0 && stats.limbo_bytes == 0 &&
           stats.quarantined_bytes == 0;
  }

  void ExpectSoon(steady_clock::time_point since) {
    ASSERT_TRUE(Eventually([this] { return NothingIsHeld(); }));
    const auto took =
        std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - since);
    std::cout << "  " << GetParam().name << ": all given back " << took.count()
              << " us after the kernel reported the death" << std::endl;
    if (!SlowBuild()) {
      EXPECT_LE(took, kPromised);
    }
    // What it committed stays, and so does everybody else's.
    const bool visible = other_->Get("reserved", NowMs()).has_value();
    EXPECT_EQ(visible, GetParam().committed || GetParam().perhaps_committed);
    EXPECT_TRUE(other_->Get("visible", NowMs()).has_value());
  }

  static constexpr bool SlowBuild() { return kThreadSanitizer || kAddressSanitizer; }
  uint64_t NowMs() const { return clock_.NowMs(); }

  std::shared_ptr<store::Namespace> ns_;
  std::unique_ptr<local::Worker> other_;
  std::unique_ptr<WorkerProcess> worker_;
};

TEST_P(AtEachStep, AKilledWorkerGivesEverythingBack) {
  Start();
  const auto killed = steady_clock::now();
  worker_->Signal(SIGKILL);
  const auto reported = worker_->AwaitDeath();
  ExpectSoon(reported);
  std::cout
      << "  " << GetParam().name << ": "
      << std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - killed).count()
      << " us after the kill" << std::endl;
}

// The child holds the socket open, and so its end is not seen. Its parent's is.
TEST_P(AtEachStep, AForkedChildThatHoldsTheSocketKeepsNothing) {
  if (!GetParam().session) GTEST_SKIP() << "its handshake times out; nothing is held";
  Start({"fork"});
  worker_->Signal(SIGKILL);
  ExpectSoon(worker_->AwaitDeath());
  EXPECT_EQ(Ended(EndReason::kProcessGone), 1u);
}

// Whatever a stopped worker holds, it holds up nobody; and when it goes on it finds its session.
TEST_P(AtEachStep, AStoppedWorkerHoldsUpNobody) {
  Start();
  worker_->Signal(SIGSTOP);
  for (int i = 0; i < 400; ++i) {  // several times the quota
    other_->Put("other:" + std::to_string(i), std::string(kObjectBytes, 'o'));
    ASSERT_TRUE(other_->Get("other:" + std::to_string(i), NowMs()).has_value());
  }
  const store::NamespaceStats stats = ns_->Stats();
  EXPECT_GT(stats.evicted, 100u);
  EXPECT_EQ(stats.reservations, GetParam().reservation ? 1u : 0u);
  EXPECT_EQ(stats.client_pins, GetParam().pin ? 1u : 0u);
  EXPECT_EQ(stats.claims.claims, GetParam().claim ? 1u : 0u);
  EXPECT_EQ(server_->stats().sessions, 1u + (GetParam().session ? 1 : 0));
  worker_->Signal(SIGCONT);
  worker_->EndInput();
  worker_->AwaitDeath();
  EXPECT_TRUE(Eventually([this] { return NothingIsHeld(); }));
}

INSTANTIATE_TEST_SUITE_P(Protocol, AtEachStep, ::testing::ValuesIn(kSteps),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace infercache::chaos
