// The GPU's thread that moves objects down, and a GPU that hangs, dies or refuses.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "absl/strings/match.h"
#include "server/gpu/demoter.h"
#include "tests/gpu/demoter_fixture.h"
#include "tests/or_die.h"

namespace infercache::gpu {
namespace {

using local::Eventually;
using store::NamespaceVerbs;

TEST_F(DemoterTest, AGpuThatHangsHoldsNobodyUp) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  AddTier({.batch_objects = 4, .patience = std::chrono::milliseconds(10)});
  fake().StickStreams();
  for (int i = 0; i < 100; ++i) PutWithoutWriting(i);
  ASSERT_TRUE(Eventually([&] { return Tier()->Stats().demoting_ms > 0; }));
  for (int i = 100; i < 200; ++i) PutWithoutWriting(i);
  EXPECT_TRUE(Eventually([&] { return TheFullReserveIsFree(); }));
  EXPECT_TRUE(Tier().Has(KeyOf(199)));
  EXPECT_EQ(Tier()->Stats().demoted, 0u);
  fake().FreeStreams();
  EXPECT_TRUE(Eventually([&] { return Tier()->Stats().demoted > 0; }));
  EXPECT_TRUE(Eventually([&] { return Tier()->Stats().demoting_ms == 0; }));
}

TEST_F(DemoterTest, AGpuThatDiesSwitchesItOffAndPutsGoOn) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  Mutex mu;
  absl::Status why;
  AddTier({.switched_off = [&](const absl::Status& status) {
    MutexLock lock(&mu);
    why = status;
  }});
  ASSERT_TRUE(Eventually([&] { return fake().UseOf(0).contexts > before_.contexts; }));
  fake().faults().contexts_dead.store(1);
  for (int i = 0; i < 100; ++i) PutWithoutWriting(i);
  EXPECT_TRUE(Eventually([&] {
    MutexLock lock(&mu);
    return absl::StrContains(why.message(), "CUDA_ERROR_ILLEGAL_ADDRESS");
  })) << why;
  for (int i = 100; i < 200; ++i) PutWithoutWriting(i);
  EXPECT_TRUE(Tier().Has(KeyOf(199)));
  EXPECT_TRUE(Eventually([&] { return TheFullReserveIsFree(); }));
  EXPECT_EQ(Tier()->Stats().demoted, 0u);
  EXPECT_EQ(Tier()->Stats().demoting_ms, 0u);
}

// Host memory is registered in the context of the one that dies.
TEST_F(DemoterTest, AGpuThatDiesLeavesTheOthersAlone) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const std::string second = fake_cuda::FakeDriver::Uuid(1);
  const uint64_t before = fake().calls().registers.load();
  const uint64_t slow_copies = fake().calls().pageable_copies.load();
  std::atomic<int> off = 0;
  AddDemotion({.switched_off = [&](const absl::Status&) { ++off; }});
  const uint64_t chunks = ns_->arena_chunks().size();
  ASSERT_TRUE(Eventually([&] { return fake().calls().registers.load() == before + chunks; }));
  ASSERT_TRUE(tiers_->Add(*store_, {.ns = ns_, .device = second, .bytes = kTierBytes}).status.ok());
  const NamespaceVerbs tier(*ns_->FindDeviceTier(second));
  fake().faults().contexts_dead.store(1);
  for (int i = 0; i < 40; ++i) ReserveAndCommit(Tier(), i);
  ASSERT_TRUE(Eventually([&] { return off == 1; }));
  for (int i = 40; i < 100; ++i) {
    ReserveAndCommit(tier, i);
    ASSERT_TRUE(Eventually([&] { return tier->BytesToDemote() == 0; })) << i;
  }
  EXPECT_GT(tier->Stats().demoted, 0u);
  EXPECT_EQ(Tier()->Stats().demoted, 0u);
  EXPECT_EQ(off, 1);
  EXPECT_EQ(fake().calls().pageable_copies.load(), slow_copies);
  // The last one that lets go of it does so in the dead context, with which it is gone.
  tiers_.reset();
  const auto context = OrDie(cuda::PrimaryContext::Retain(driver_, 1));
  const cuda::CurrentContext current(*context);
  const std::span<std::byte> chunk = ns_->arena_chunks().front();
  EXPECT_EQ(driver_->api().mem_host_register(chunk.data(), chunk.size(), 0), cuda::kSuccess);
  EXPECT_EQ(driver_->api().mem_host_unregister(chunk.data()), cuda::kSuccess);
}

// It was given to others, though nothing says that the GPU's engines have stopped.
TEST_F(DemoterTest, WhatADyingGpuHasInHandStaysTaken) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  std::atomic<bool> off = false;
  AddTier({.switched_off = [&](const absl::Status&) { off = true; }});
  fake().StickStreams();
  for (int i = 0; i < 40; ++i) PutWithoutWriting(i);
  ASSERT_TRUE(Eventually([&] { return Tier()->Stats().pins > 0; }));
  fake().faults().contexts_dead.store(1);
  fake().FreeStreams();
  ASSERT_TRUE(Eventually([&] { return off.load(); }));
  const uint64_t pinned = Tier()->Stats().pins;
  EXPECT_GT(pinned, 0u) << "nobody else may have what a GPU still reads";
  EXPECT_EQ(ns_->Stats().reservations, pinned) << "or writes";
  EXPECT_EQ(Tier()->Stats().demoting_ms, 0u);
  for (int i = 40; i < 200; ++i) PutWithoutWriting(i);
  EXPECT_EQ(Tier()->Stats().pins, pinned);
  EXPECT_EQ(ns_->Stats().reservations, pinned);
  // Nor once the namespace is gone.
  const std::weak_ptr<store::Namespace> host = ns_;
  ASSERT_TRUE(store_->DeleteNamespace("kv").ok());
  ns_.reset();
  EXPECT_FALSE(host.expired());
  tiers_.reset();
  EXPECT_TRUE(Eventually([&] { return host.expired(); })) << "upkeep has it for a moment";
}

TEST_F(DemoterTest, WithoutAMappingTheTierStaysAndNothingMovesDown) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  Mutex mu;
  absl::Status why;
  fake().faults().refuse_maps.store(1);
  AddDemotion({.switched_off = [&](const absl::Status& status) {
    MutexLock lock(&mu);
    why = status;
  }});
  ASSERT_TRUE(Eventually([&] {
    MutexLock lock(&mu);
    return absl::StrContains(why.message(), "cuMemMap");
  })) << why;
  fake().faults().refuse_maps.store(0);
  MapChunks();
  for (int i = 0; i < 100; ++i) Put(i);
  EXPECT_TRUE(Tier().Has(KeyOf(99)));
  EXPECT_EQ(Tier()->Stats().demoted, 0u);
}

TEST_F(DemoterTest, WhoEndsTheDaemonLeavesAHangingThreadBehind) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  AddTier({.patience = std::chrono::milliseconds(10)});
  fake().StickStreams();
  for (int i = 0; i < 40; ++i) PutWithoutWriting(i);
  ASSERT_TRUE(Eventually([&] { return Tier()->Stats().pins > 0; }));
  tiers_.reset();
  EXPECT_GT(Tier()->Stats().pins, 0u) << "nobody else may have what a GPU still reads";
  EXPECT_GT(ns_->Stats().reservations, 0u) << "or writes";
  fake().FreeStreams();
  EXPECT_TRUE(Eventually([&] { return Tier()->Stats().pins == 0; }));
}

// It went on with the store, whose clock was gone.
class LeftBehind : public DemoterTest {
 protected:
  void ExpectOnlyLetsGo(uint32_t contexts_dead) {
    if (!is_fake()) GTEST_SKIP() << "takes a fault";
    const auto told = std::make_shared<std::atomic<int>>();
    const auto tell = [told](const absl::Status&) { ++*told; };
    AddTier({.patience = std::chrono::milliseconds(10), .switched_off = tell, .slow = tell});
    fake().StickStreams();
    for (int i = 0; i < 40; ++i) PutWithoutWriting(i);
    ASSERT_TRUE(Eventually([&] { return Tier()->Stats().pins > 0; }));
    EndAll();
    clock_.Goes();
    departed_.Goes();
    EXPECT_NE(fake().UseOf(0), before_) << "nothing was left behind";
    fake().faults().contexts_dead.store(contexts_dead);
    fake().FreeStreams();
    // What it was told with goes with it.
    EXPECT_TRUE(Eventually([&] { return fake().UseOf(0) == before_ && told.use_count() == 2; }));
    EXPECT_EQ(clock_.used_since(), 0u);
    EXPECT_EQ(departed_.used_since(), 0u);
    EXPECT_EQ(*told, 0);
  }
};

TEST_F(LeftBehind, AThreadWhoseGpuGoesOnOnlyLetsGoOfWhatItHas) { ExpectOnlyLetsGo(0); }
TEST_F(LeftBehind, AThreadWhoseGpuDiesOnlyLetsGoOfWhatItHas) { ExpectOnlyLetsGo(1); }

}  // namespace
}  // namespace infercache::gpu
