// The GPU's thread that moves objects down.

#include "server/gpu/demoter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "tests/gpu/demoter_fixture.h"

namespace infercache::gpu {
namespace {

using local::Eventually;
using store::NamespaceVerbs;

TEST_F(DemoterTest, BytesMoveDownBeforeTheirRoomIsNeeded) {
  AddTier();
  constexpr int kObjects = 100;
  for (int i = 0; i < kObjects; ++i) {
    Put(i);
    ASSERT_TRUE(Eventually([&] { return Tier()->BytesToDemote() == 0; })) << i;
  }
  const store::NamespaceStats stats = Tier()->Stats();
  EXPECT_GT(stats.demoted, 60u);
  EXPECT_EQ(stats.evicted, stats.demoted) << "none was lost";
  const NamespaceVerbs host(ns_);
  int below = 0;
  for (int i = 0; i < kObjects; ++i) {
    const auto found = host.Get(KeyOf(i));
    EXPECT_NE(found.has_value(), Tier().Has(KeyOf(i))) << "in one place";
    if (!found.has_value()) continue;
    ++below;
    EXPECT_TRUE(*found == BytesOf(i)) << i;
  }
  EXPECT_EQ(static_cast<uint64_t>(below), stats.demoted);
}

TEST_F(DemoterTest, TakesOneContextAndGivesItBack) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not tell";
  const uint64_t before = fake().calls().contexts.load();
  AddTier();
  Put(0);
  ns_->Flush("");
  EXPECT_TRUE(Eventually([&] { return fake().UseOf(0).contexts == 1; }));
  EXPECT_EQ(fake().calls().contexts.load(), before + 1);
}

TEST_F(DemoterTest, HostMemoryIsRegisteredForAsLongAsItIsThere) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not tell";
  const uint64_t before = fake().calls().registers.load();
  const uint64_t given_back = fake().calls().unregisters.load();
  AddTier();
  EXPECT_TRUE(Eventually([&] { return fake().calls().registers.load() > before; }));
  ASSERT_TRUE(store_->DeleteNamespace("kv").ok());
  EXPECT_TRUE(Eventually([&] {
    return fake().calls().unregisters.load() - given_back ==
           fake().calls().registers.load() - before;
  }));
}

// The second GPU's registration of the same memory failed, and its copies were slow.
TEST_F(DemoterTest, HostMemoryIsRegisteredOnceForAllGpus) {
  if (!is_fake()) GTEST_SKIP() << "a real driver does not tell";
  const uint64_t before = fake().calls().registers.load();
  const uint64_t given_back = fake().calls().unregisters.load();
  const uint64_t slow_copies = fake().calls().pageable_copies.load();
  const std::string second = fake_cuda::FakeDriver::Uuid(1);
  std::atomic<int> slow = 0;
  AddTier({.slow = [&](const absl::Status&) { ++slow; }});
  const uint64_t chunks = ns_->arena_chunks().size();
  ASSERT_TRUE(Eventually([&] { return fake().calls().registers.load() == before + chunks; }));
  ASSERT_TRUE(tiers_->Add(*store_, {.ns = ns_, .device = second, .bytes = kTierBytes}).status.ok());
  const NamespaceVerbs tier(*ns_->FindDeviceTier(second));
  for (int i = 0; i < 40; ++i) {
    ReserveAndCommit(tier, i);
    ASSERT_TRUE(Eventually([&] { return tier->BytesToDemote() == 0; })) << i;
  }
  EXPECT_GT(tier->Stats().demoted, 0u);
  EXPECT_EQ(slow, 0);
  EXPECT_EQ(fake().calls().registers.load(), before + chunks);
  EXPECT_EQ(fake().calls().pageable_copies.load(), slow_copies);
  // Until both have let go of it.
  EXPECT_EQ(fake().calls().unregisters.load(), given_back);
  tiers_.reset();
  EXPECT_EQ(fake().calls().unregisters.load(), given_back + chunks);
}

// A tier that was never done kept others, and those that were deleted, for as long.
TEST_F(DemoterTest, TiersOfOneGpuTakeTurns) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  AddTier({.batch_objects = 1});
  fake().StickStreams();
  for (int i = 0; i < 30; ++i) PutWithoutWriting(i);
  ASSERT_TRUE(Eventually([&] { return Tier()->Stats().pins == 1; }));
  const auto second = *store_->CreateNamespace({.name = "second", .quota_bytes = 16 << 20});
  ASSERT_TRUE(tiers_->Add(*store_, {.ns = second, .device = device_.uuid, .bytes = kTierBytes})
                  .status.ok());
  const NamespaceVerbs tier(*second->FindDeviceTier(device_.uuid));
  for (int i = 0; i < 30; ++i) ReserveAndCommit(tier, i);
  fake().FreeStreams();
  const auto is_done = [](const NamespaceVerbs& of) { return of->BytesToDemote() == 0; };
  ASSERT_TRUE(Eventually([&] { return is_done(Tier()) && is_done(tier); }));
  const std::string order = departed_.order();
  EXPECT_GT(std::ranges::count(order, 'k'), 3) << order;
  EXPECT_GT(std::ranges::count(order, 's'), 3) << order;
  EXPECT_LT(order.find('s'), order.rfind('k')) << order;
}

// The daemon has one on no other thread, and the driver may want it.
TEST_F(DemoterTest, MapsWhereThereIsAContext) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const uint64_t before = fake().UseOf(0).mappings;
  fake().faults().maps_need_context.store(1);
  AddDemotion();
  EXPECT_TRUE(Eventually([&] { return fake().UseOf(0).mappings == before + 2; }));
}

}  // namespace
}  // namespace infercache::gpu
