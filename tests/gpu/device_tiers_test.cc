#include "server/gpu/device_tiers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/time/clock.h"
#include "tests/cuda/gpu_fixture.h"
#include "tests/local/local_fixture.h"

namespace infercache::gpu {
namespace {

using cuda::GpuTest;
using store::DeviceTier;
using store::Namespace;
using store::NamespaceVerbs;
using ::testing::HasSubstr;

constexpr uint64_t kTierBytes = uint64_t{8} << 20;

// A store beside a GPU.
class DeviceTiersTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    OpenStore({.capacity_bytes = 64 << 20, .background = false});
    before_ = fake().UseOf(0);
  }
  void TearDown() override {
    ns_.reset();
    store_.reset();
    if (!IsSkipped() && is_fake()) {
      EXPECT_TRUE(local::Eventually([this] { return fake().UseOf(0) == before_; }))
          << "not given back";
    }
    GpuTest::TearDown();
  }
  void OpenStore(const store::StoreOptions& options) {
    store_ = std::make_unique<store::Store>(options, clock_);
    ns_ = *store_->CreateNamespace({.name = "kv", .quota_bytes = 1 << 20});
  }
  TierResult Add(TierOptions options = {}, std::string device = {}, uint64_t bytes = kTierBytes) {
    if (device.empty()) device = device_.uuid;
    DeviceTiers tiers(std::move(options));
    return tiers.Add(*store_, {.ns = ns_, .device = device, .bytes = bytes});
  }
  void ExpectToBeAddedAfterWaits(int expected) {
    int waits = 0;
    const TierResult added = Add({.wait = [&waits](absl::Duration) {
      ++waits;
      return true;
    }});
    EXPECT_TRUE(added.status.ok()) << added.status;
    EXPECT_EQ(waits, expected);
  }
  std::shared_ptr<Namespace> Tier() { return *ns_->FindDeviceTier(device_.uuid); }

  ManualClock clock_;
  std::unique_ptr<store::Store> store_;
  std::shared_ptr<Namespace> ns_;
  fake_cuda::Use before_;
};

TEST_F(DeviceTiersTest, ATierIsANamespaceWhoseBytesNobodyHereCanTouch) {
  const TierResult added = Add();
  ASSERT_TRUE(added.status.ok()) << added.status;
  EXPECT_EQ(added.bytes, kTierBytes);
  const NamespaceVerbs tier(Tier());
  EXPECT_EQ(tier->spec().device, device_.uuid);
  EXPECT_EQ(tier->Stats().quota_bytes, kTierBytes);
  auto lease = tier.TryReserve("key", 1000);
  ASSERT_TRUE(lease.ok() && lease->has_value());
  EXPECT_EQ((*lease)->size_bytes(), 1000u);
  EXPECT_TRUE((*lease)->bytes().empty());
  EXPECT_EQ((*lease)->place().offset % 256, 0u);
  EXPECT_EQ(*tier->Commit(**std::move(lease)), store::CommitOutcome::kStored);
  const auto found = tier.Lookup("key");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->size_bytes(), 1000u);
  EXPECT_TRUE(found->bytes().empty());
  // Another namespace than the one in host memory.
  EXPECT_FALSE(NamespaceVerbs(ns_).Has("key"));
  EXPECT_EQ(store_->Namespaces().size(), 1u);
  EXPECT_EQ(store_->FindNamespace(tier->spec().name).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(DeviceTiersTest, HasThePolicyAndTheRightsOfItsNamespace) {
  store::NamespaceSpec spec{.name = "guarded", .quota_bytes = 1 << 20, .policy = "fifo"};
  spec.required_fingerprint = {{"model", "m"}};
  spec.local_writers = {.everyone = false, .users = {7}, .groups = {}};
  spec.checksums = true;
  ns_ = *store_->CreateNamespace(spec);
  ASSERT_TRUE(Add().status.ok());
  EXPECT_EQ(Tier()->policy(), "fifo");
  EXPECT_EQ(Tier()->spec().required_fingerprint, spec.required_fingerprint);
  EXPECT_EQ(Tier()->spec().local_writers.users, spec.local_writers.users);
  EXPECT_FALSE(Tier()->spec().local_writers.everyone);
  EXPECT_FALSE(Tier()->spec().checksums) << "the daemon cannot read the bytes";
}

TEST_F(DeviceTiersTest, EvictsAtItsQuotaAndKeepsWhatIsHeld) {
  ASSERT_TRUE(Add().status.ok());
  const NamespaceVerbs tier(Tier());
  constexpr uint64_t kBlock = uint64_t{1} << 20;
  const auto put = [&tier](const std::string& key) {
    auto lease = tier.TryReserve(key, kBlock);
    ASSERT_TRUE(lease.ok() && lease->has_value()) << lease.status();
    ASSERT_TRUE(tier->Commit(**std::move(lease)).ok());
  };
  put("held");
  const auto held = tier.Lookup("held");
  for (int i = 0; i < 40; ++i) put("key" + std::to_string(i));
  EXPECT_TRUE(tier.Has("held"));
  EXPECT_TRUE(tier.Has("key39"));
  EXPECT_FALSE(tier.Has("key0"));
  const auto stats = tier->Stats();
  EXPECT_GE(stats.evicted, 33u);
  EXPECT_LE(stats.used_bytes, kTierBytes);
}

TEST_F(DeviceTiersTest, UpkeepOfTheNamespaceIsUpkeepOfItsTiers) {
  ASSERT_TRUE(Add().status.ok());
  const NamespaceVerbs tier(Tier());
  const ObjectInfo info{.ttl_ms = 1000};
  auto lease = tier.TryReserve("key", 10, {.overwrite = false, .info = info, .parts = {}});
  ASSERT_TRUE(lease.ok());
  ASSERT_TRUE(tier->Commit(**std::move(lease)).ok());
  clock_.AdvanceMs(2000);
  for (int i = 0; i < 1000 && tier->Stats().objects > 0; ++i) store_->Maintain();
  EXPECT_EQ(tier->Stats().expired, 1u);
}

TEST_F(DeviceTiersTest, WhatIsSaidToTheNamespaceIsSaidToItsTiers) {
  ns_ = *store_->CreateNamespace(
      {.name = "virtual", .quota_bytes = 1 << 20, .policy = "lru", .virtual_clock = true});
  ASSERT_TRUE(Add().status.ok());
  const NamespaceVerbs tier(Tier());
  EXPECT_EQ(*ns_->SetPolicy("fifo"), "lru");
  EXPECT_EQ(tier->policy(), "fifo");
  // The age of what goes is by the policy's time.
  auto lease = tier.TryReserve("old", kTierBytes);
  ASSERT_TRUE(tier->Commit(**std::move(lease)).ok());
  ASSERT_TRUE(ns_->AdvanceClock(5000).ok());
  lease = tier.TryReserve("new", kTierBytes);
  ASSERT_TRUE(tier->Commit(**std::move(lease)).ok());
  EXPECT_EQ(tier->Stats().uses.age_at_eviction.sum_ms, 5000u);
  EXPECT_EQ(ns_->Flush("other"), 0u);
  EXPECT_EQ(ns_->Flush("n"), 1u);
  EXPECT_FALSE(tier.Has("new"));
}

TEST_F(DeviceTiersTest, ClosesWithItsNamespace) {
  ASSERT_TRUE(Add().status.ok());
  const auto tier = Tier();
  ASSERT_TRUE(store_->DeleteNamespace("kv").ok());
  EXPECT_TRUE(tier->closed());
}

TEST_F(DeviceTiersTest, AutoIsRefusedWhereThereAreTwo) {
  if (!is_fake()) GTEST_SKIP() << "the fake has two GPUs";
  const TierResult added = Add({}, "auto");
  EXPECT_EQ(added.status.code(), absl::StatusCode::kNotFound);
  ASSERT_EQ(ns_->device_tiers().size(), 1u);
  EXPECT_EQ(ns_->device_tiers()[0].objects, nullptr);
}

TEST_F(DeviceTiersTest, WithoutADriverItIsOffAndSaysWhy) {
  const TierResult added = Add({.library = "libcuda-that-is-not-there.so"});
  EXPECT_EQ(added.status.code(), absl::StatusCode::kUnimplemented);
  const auto tier = ns_->FindDeviceTier(device_.uuid);
  EXPECT_EQ(tier.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(tier.status().message(), HasSubstr("libcuda-that-is-not-there.so"));
}

TEST_F(DeviceTiersTest, AsksAFullGpuAgainUntilItHasRoom) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().faults().creates_to_fail.store(3);
  ExpectToBeAddedAfterWaits(3);
}

TEST_F(DeviceTiersTest, StopsAskingWhenItIsNoLongerWorthIt) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().faults().creates_to_fail.store(-1);
  int waits = 0;
  const TierResult added = Add({.wait = [&waits](absl::Duration) { return ++waits < 3; }});
  EXPECT_EQ(added.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(waits, 3);
  EXPECT_THAT(ns_->FindDeviceTier(device_.uuid).status().message(),
              HasSubstr("CUDA_ERROR_OUT_OF_MEMORY"));
  // What failed once may work the next time.
  fake().ClearFaults();
  EXPECT_TRUE(Add().status.ok());
  EXPECT_TRUE(ns_->FindDeviceTier(device_.uuid).ok());
}

// As on a machine with NVSwitch that boots, until its fabric manager is there.
TEST_F(DeviceTiersTest, AsksAMachineThatIsNotReadyAgain) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().faults().inits_not_ready.store(3);
  ExpectToBeAddedAfterWaits(3);
}

TEST_F(DeviceTiersTest, OfAMachineThatIsNeverReadyAllAreOffAfterOnePatience) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().faults().inits_not_ready.store(-1);
  int waits = 0;
  DeviceTiers tiers({.patience = absl::Milliseconds(100), .wait = [&waits](absl::Duration) {
                       ++waits;
                       absl::SleepFor(absl::Milliseconds(100));  // which uses it up
                       return true;
                     }});
  const auto try_to_add = [&](const std::shared_ptr<Namespace>& ns) {
    const TierResult added =
        tiers.Add(*store_, {.ns = ns, .device = device_.uuid, .bytes = kTierBytes});
    EXPECT_EQ(added.status.code(), absl::StatusCode::kUnavailable) << added.status;
    const absl::Status off = ns->FindDeviceTier(device_.uuid).status();
    EXPECT_EQ(off.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(off.message(), HasSubstr("CUDA_ERROR_SYSTEM_NOT_READY"));
  };
  try_to_add(ns_);
  const int first = waits;
  try_to_add(*store_->CreateNamespace({.name = "second", .quota_bytes = 1 << 20}));
  EXPECT_EQ(waits, first);
}

TEST_F(DeviceTiersTest, ATierThatDoesNotFitLeavesNothingBehind) {
  if (!is_fake()) GTEST_SKIP() << "a real GPU is not made small";
  const TierResult added =
      Add({.chunk_bytes = 16 << 20, .patience = absl::ZeroDuration()}, {}, kDeviceBytes + 1);
  EXPECT_EQ(added.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(fake().UseOf(0), before_);
}

TEST_F(DeviceTiersTest, ADriverThatHangsIsWaitedForOnce) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().hangs().inits.store(1);
  const uint64_t asked = fake().calls().inits.load();
  DeviceTiers tiers({.longest_call = absl::Milliseconds(100)});
  const auto expect_off = [&](const std::shared_ptr<Namespace>& ns) {
    const TierResult added =
        tiers.Add(*store_, {.ns = ns, .device = device_.uuid, .bytes = kTierBytes});
    EXPECT_EQ(added.status.code(), absl::StatusCode::kDeadlineExceeded) << added.status;
    EXPECT_THAT(ns->FindDeviceTier(device_.uuid).status().message(),
                HasSubstr("cuInit takes longer than 100ms"));
  };
  expect_off(ns_);
  expect_off(*store_->CreateNamespace({.name = "second", .quota_bytes = 1 << 20}));
  EXPECT_EQ(fake().calls().inits.load(), asked + 1);
}

TEST_F(DeviceTiersTest, WhatAGpuMakesWhenNobodyWaitsAnyMoreIsGivenBack) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().hangs().creates.store(1);
  const uint64_t asked = fake().calls().creates.load();
  const uint64_t given_back = fake().calls().releases.load();
  const TierResult added = Add({.longest_call = absl::InfiniteDuration(), .stopping = [asked] {
                                  return fake().calls().creates.load() > asked;
                                }});
  EXPECT_EQ(added.status.code(), absl::StatusCode::kCancelled) << added.status;
  fake().EndHangs();
  EXPECT_TRUE(
      local::Eventually([given_back] { return fake().calls().releases.load() > given_back; }));
  EXPECT_FALSE(ns_->FindDeviceTier(device_.uuid).ok());
}

TEST_F(DeviceTiersTest, MoreChunksThanThereMayBeAreNotEvenMade) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not tell";
  const uint64_t before = fake().calls().creates.load();
  const TierResult added = Add({.chunk_bytes = 1 << 20}, {}, uint64_t{192} << 30);
  EXPECT_EQ(added.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(added.status.message()), HasSubstr("98304 chunks"));
  EXPECT_EQ(fake().calls().creates.load(), before);
}

TEST_F(DeviceTiersTest, AGpuThatExportsNothingIsNotAskedAgain) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  fake().faults().refuse_exports.store(1);
  const TierResult added = Add({.wait = [](absl::Duration) {
    ADD_FAILURE() << "waited";
    return false;
  }});
  EXPECT_EQ(added.status.code(), absl::StatusCode::kUnimplemented);
}

TEST_F(DeviceTiersTest, ASecondTierOnOneGpuIsRefusedAndTheFirstStays) {
  ASSERT_TRUE(Add().status.ok());
  EXPECT_EQ(Add().status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(ns_->FindDeviceTier(device_.uuid).ok());
}

TEST_F(DeviceTiersTest, MakesNoContext) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not tell";
  const uint64_t before = fake().calls().contexts.load();
  ASSERT_TRUE(Add().status.ok());
  ASSERT_TRUE(Tier()->OpenChunk(0, true).ok());
  EXPECT_EQ(fake().calls().contexts.load(), before);
}

}  // namespace
}  // namespace infercache::gpu
