// Workers of a tier that are killed or stopped at each step of the same-host protocol, as the chaos
// tests do with workers of host memory (tests/chaos/death_test.cc). They speak the protocol and
// know no driver: what a GPU adds to these steps is in device_death_test.cc.

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "tests/build_kind.h"
#include "tests/chaos/steps.h"
#include "tests/chaos/worker_process.h"
#include "tests/gpu/gpu_local_fixture.h"
#include "tests/helper_path.h"

namespace infercache::chaos {

void PrintTo(const Step& step, std::ostream* out) { *out << step.name; }

}  // namespace infercache::chaos

namespace infercache::gpu {
namespace {

using chaos::kObjectBytes;
using chaos::Step;
using chaos::WorkerProcess;
using local::EndReason;
using local::Eventually;
using std::chrono::steady_clock;

// After the kernel reports the death. Slow builds get more time.
constexpr std::chrono::milliseconds kPromisedToAll{100};

void ExpectInTime(steady_clock::time_point died, const char* what) {
  const auto took = steady_clock::now() - died;
  std::cout << "  " << what << ": "
            << std::chrono::duration_cast<std::chrono::microseconds>(took).count()
            << " us after the kernel reported the death" << std::endl;
  if (kThreadSanitizer || kAddressSanitizer) return;
  EXPECT_LE(took, kPromisedToAll);
}

// The tier has the object "visible" and one more session, a bystander's.
class TierProtocol : public GpuLocalFixture {
 protected:
  void SetUp() override {
    GpuLocalFixture::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ServeTier();
    other_.emplace(OpenTier());
    PutAsOther("visible");
    if (is_fake()) tier_alone_ = fake().UseOf(0);
  }
  void TearDown() override {
    worker_.reset();
    other_.reset();
    GpuLocalFixture::TearDown();
  }

  local::Worker OpenTier() {
    local::RawClient client = Connect();
    const absl::Status opened = client.Open(OnDevice());
    EXPECT_TRUE(opened.ok()) << opened;
    return local::Worker(std::move(client));
  }
  void PutAsOther(const std::string& key) {
    const v1::ReservedItem place = other_->Reserve(key, kObjectBytes);
    ASSERT_NE(place.reservation(), 0u) << place.message();
    ASSERT_EQ(other_->Commit(place.reservation()).outcome(), v1::LOCAL_PUT_STORED);
  }
  // One that has said that it is there.
  void StartAt(const char* step, bool with_child = false) {
    std::vector<std::string> arguments = {socket_path(), step, "device=" + device_.uuid};
    if (with_child) arguments.push_back("fork");
    auto started = WorkerProcess::Start(HelperPath(TEST_WORKER_BINARY), arguments);
    ASSERT_TRUE(started.ok()) << started.status();
    worker_ = *std::move(started);
    const auto line = worker_->ReadLine();
    ASSERT_TRUE(line.ok()) << line.status();
    ASSERT_EQ(*line, std::string("at ") + step);
  }
  steady_clock::time_point Kill() {
    worker_->Signal(SIGKILL);
    return worker_->AwaitDeath();
  }
  // Of the worker; the bystander has its session and nothing else.
  bool NothingButRoomIsHeld() {
    const store::NamespaceStats stats = Tier()->Stats();
    return server_->stats().sessions == 1 && stats.client_pages == 1 && stats.client_pins == 0 &&
           stats.pins == 0 && stats.claims.claims == 0 && stats.claims.waiters == 0 &&
           stats.limbo_bytes == 0;
  }
  bool NothingIsHeld() {
    const store::NamespaceStats stats = Tier()->Stats();
    return NothingButRoomIsHeld() && stats.reservations == 0 && stats.quarantined_bytes == 0;
  }
  bool IsThere(const std::string& key) {
    const auto found = other_->Lookup({key});
    if (found.at(0).lease() == 0) return false;
    other_->Release({found[0].lease()});
    other_->Ping();
    return true;
  }

  std::optional<local::Worker> other_;
  std::unique_ptr<WorkerProcess> worker_;
  fake_cuda::Use tier_alone_;
};

class TierAtEachStep : public TierProtocol, public ::testing::WithParamInterface<Step> {
 protected:
  // A worker that has come to the step, and holds in the tier what it should.
  void Start(bool with_child = false) {
    StartAt(GetParam().name, with_child);
    ASSERT_TRUE(Eventually([this] {
      const store::NamespaceStats stats = Tier()->Stats();
      const uint64_t sessions = 1u + (GetParam().session ? 1 : 0);
      return server_->stats().sessions == sessions && stats.client_pages == sessions &&
             stats.reservations == (GetParam().reservation ? 1u : 0u) &&
             stats.client_pins == (GetParam().pin ? 1u : 0u) &&
             stats.pins == (GetParam().lease ? 1u : 0u) &&
             stats.claims.claims == (GetParam().claim ? 1u : 0u) &&
             (!GetParam().perhaps_committed || stats.objects == 2);
    })) << "it does not hold what it should";
  }
  void ExpectSoon(steady_clock::time_point died) {
    ASSERT_TRUE(Eventually([this] { return NothingIsHeld(); }));
    ExpectInTime(died, GetParam().name);
    EXPECT_EQ(IsThere("reserved"), GetParam().committed || GetParam().perhaps_committed);
    EXPECT_TRUE(IsThere("visible"));
    if (is_fake()) {
      EXPECT_EQ(fake().UseOf(0), tier_alone_);
    }
  }
};

TEST_P(TierAtEachStep, AKilledWorkerGivesEverythingBack) {
  Start();
  ExpectSoon(Kill());
}

// The child holds the socket open, and descriptors of the tier's memory; with a real driver also
// the GPU, which may go on writing where the worker had it write.
TEST_P(TierAtEachStep, AForkedChildThatHoldsTheSocketKeepsWhatAGpuMayWriteAndNothingElse) {
  if (!GetParam().session) GTEST_SKIP() << "its handshake times out; nothing is held";
  Start(/*with_child=*/true);
  const auto died = Kill();
  if (!GetParam().reservation) {
    ExpectSoon(died);
    EXPECT_EQ(Ended(EndReason::kProcessGone), 1u);
    EXPECT_EQ(Log().find("is gone, but another process"), std::string::npos) << Log();
    return;
  }
  ASSERT_TRUE(Eventually([this] { return NothingButRoomIsHeld(); }));
  ExpectInTime(died, GetParam().name);
  EXPECT_EQ(Ended(EndReason::kProcessGone), 1u);
  ASSERT_TRUE(Eventually([this] {
    return Log().find(std::to_string(kObjectBytes) + " bytes reserved in the memory of " +
                      device_.uuid) != std::string::npos;
  })) << Log();
  // However full the tier gets, nobody else has the room.
  for (int i = 0; i < 400; ++i) {  // three times the tier
    PutAsOther("other:" + std::to_string(i));
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(Tier()->Stats().reservations, 1u);
  EXPECT_EQ(Tier()->Stats().quarantined_bytes, kObjectBytes);
  worker_->EndInput();  // and with it the child
  EXPECT_TRUE(Eventually([this] { return NothingIsHeld(); }));
}

TEST_P(TierAtEachStep, AStoppedWorkerHoldsUpNobody) {
  Start();
  worker_->Signal(SIGSTOP);
  for (int i = 0; i < 400; ++i) {  // three times the tier
    PutAsOther("other:" + std::to_string(i));
    if (HasFatalFailure()) return;
  }
  const store::NamespaceStats stats = Tier()->Stats();
  EXPECT_GT(stats.evicted, 100u);
  EXPECT_EQ(stats.reservations, GetParam().reservation ? 1u : 0u);
  EXPECT_EQ(stats.client_pins, GetParam().pin ? 1u : 0u);
  EXPECT_EQ(stats.pins, GetParam().lease ? 1u : 0u);
  EXPECT_EQ(stats.claims.claims, GetParam().claim ? 1u : 0u);
  EXPECT_EQ(server_->stats().sessions, 1u + (GetParam().session ? 1 : 0));
  worker_->Signal(SIGCONT);
  worker_->EndInput();
  worker_->AwaitDeath();
  EXPECT_TRUE(Eventually([this] { return NothingIsHeld(); }));
}

std::vector<Step> StepsInATier() {
  std::vector<Step> steps;
  for (const Step& step : chaos::kSteps) {
    if (!step.host_memory) steps.push_back(step);
  }
  return steps;
}
INSTANTIATE_TEST_SUITE_P(Protocol, TierAtEachStep, ::testing::ValuesIn(StepsInATier()),
                         [](const auto& info) { return std::string(info.param.name); });

// --- Single flight in a tier ---

class TierClaims : public TierProtocol, public ::testing::WithParamInterface<const char*> {
 protected:
  v1::ClaimState Ask(local::Worker& worker) {
    v1::LocalRequest request;
    request.mutable_get_or_reserve()->add_keys("reserved");
    request.mutable_get_or_reserve()->set_wait_ms(60'000);
    const auto answer = worker.raw().Ask(request);
    EXPECT_TRUE(answer.ok()) << answer.status();
    if (!answer.ok()) return v1::CLAIM_STATE_UNSPECIFIED;
    claim_ = answer->response.claim_answers().items(0).claim();
    return answer->response.claim_answers().items(0).state();
  }
  v1::ClaimState AwaitEvent(local::Worker& worker) {
    const auto event = worker.raw().AwaitClaimEvent();
    EXPECT_TRUE(event.ok()) << event.status();
    if (!event.ok()) return v1::CLAIM_STATE_UNSPECIFIED;
    claim_ = event->answer().claim();
    return event->answer().state();
  }
  // What it won last.
  void Fulfil(local::Worker& worker) {
    v1::ReserveItem item = local::MakeItem("reserved", kObjectBytes);
    item.set_claim(claim_);
    const auto places = worker.ReserveAll({item});
    ASSERT_EQ(places.size(), 1u);
    ASSERT_EQ(places[0].code(), 0u) << places[0].message();
    EXPECT_EQ(worker.Commit(places[0].reservation()).outcome(), v1::LOCAL_PUT_STORED);
  }
  store::ClaimStats claims() { return Tier()->Stats().claims; }

  uint64_t claim_ = 0;
};

// With its reservation too, if it had come that far.
TEST_P(TierClaims, OfAKilledWorkerPassToTheFirstThatWaits) {
  StartAt(GetParam());
  ASSERT_TRUE(Eventually([this] { return claims().claims == 1; }));
  local::Worker third = OpenTier();
  EXPECT_EQ(Ask(*other_), v1::CLAIM_STATE_WAIT);
  EXPECT_EQ(Ask(third), v1::CLAIM_STATE_WAIT);
  EXPECT_EQ(claims().waiters, 2u);
  const auto died = Kill();
  EXPECT_EQ(AwaitEvent(*other_), v1::CLAIM_STATE_WIN);
  ExpectInTime(died, "the next has the claim");
  EXPECT_EQ(claims().claims, 1u);
  EXPECT_EQ(claims().waiters, 1u);
  EXPECT_TRUE(Eventually([this] { return Tier()->Stats().reservations == 0; }));
  Fulfil(*other_);
  EXPECT_EQ(AwaitEvent(third), v1::CLAIM_STATE_HIT);
  third.raw().Close();
  EXPECT_TRUE(Eventually([this] { return NothingIsHeld(); }));
}

TEST_P(TierClaims, AreNothingToHostMemorysUnderTheSameKey) {
  StartAt(GetParam());
  ASSERT_TRUE(Eventually([this] { return claims().claims == 1; }));
  local::Worker in_host_memory = Open();
  EXPECT_EQ(Ask(in_host_memory), v1::CLAIM_STATE_WIN);
  in_host_memory.Put("reserved", std::string(kObjectBytes, 'h'));
  EXPECT_EQ(claims().claims, 1u);
  EXPECT_EQ(Ask(*other_), v1::CLAIM_STATE_WAIT);
  Kill();
  EXPECT_EQ(AwaitEvent(*other_), v1::CLAIM_STATE_WIN);
}

INSTANTIATE_TEST_SUITE_P(Protocol, TierClaims,
                         ::testing::Values("claim_sent", "claimed", "claim_reserved"),
                         [](const auto& info) { return std::string(info.param); });

class TierWaits : public TierClaims {};

TEST_P(TierWaits, OfAKilledWorkerAreForgotten) {
  EXPECT_EQ(Ask(*other_), v1::CLAIM_STATE_WIN);
  StartAt(GetParam());
  ASSERT_TRUE(Eventually([this] { return claims().waiters == 1; }));
  EXPECT_EQ(claims().claims, 1u);
  const auto died = Kill();
  ASSERT_TRUE(Eventually([this] { return claims().waiters == 0; }));
  ExpectInTime(died, "nobody waits");
  EXPECT_EQ(claims().claims, 1u) << "its holder lives";
  Fulfil(*other_);
  EXPECT_TRUE(Eventually([this] { return NothingIsHeld(); }));
}

INSTANTIATE_TEST_SUITE_P(Protocol, TierWaits, ::testing::Values("claim_sent", "claimed"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace infercache::gpu
