// The GPU's thread that moves objects down, and a GPU that hangs or dies under it.

#include "server/gpu/demoter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>

#include "absl/strings/match.h"
#include "server/gpu/device_tiers.h"
#include "tests/cuda/gpu_fixture.h"
#include "tests/gpu/device_buffer.h"
#include "tests/local/local_fixture.h"

namespace infercache::gpu {
namespace {

using cuda::GpuTest;
using local::Eventually;
using store::NamespaceVerbs;

constexpr uint64_t kTierBytes = uint64_t{8} << 20;
constexpr uint64_t kBlock = uint64_t{256} << 10;

// Bytes that differ from object to object.
std::string BytesOf(int i) {
  std::string bytes(kBlock, static_cast<char>('a' + i % 26));
  bytes.replace(0, 8, std::to_string(10'000'000 + i));
  return bytes;
}
std::string KeyOf(int i) { return "key" + std::to_string(i); }

// What a store leans on, and whether that is so when it may be gone.
class Support {
 public:
  void Goes() { gone_ = true; }
  uint64_t used_since() const { return used_since_; }

 protected:
  void IsUsed() const { used_since_ += gone_ ? 1 : 0; }

 private:
  std::atomic<bool> gone_{false};
  mutable std::atomic<uint64_t> used_since_{0};
};

class SupportingClock final : public Clock, public Support {
 public:
  uint64_t NowMs() const override {
    IsUsed();
    return clock_.NowMs();
  }

 private:
  MonotonicClock clock_;
};

// The first letters of the namespaces from which something was evicted, in order.
class Departed final : public store::Observer, public Support {
 public:
  void OnEvent(const store::Event& event) override {
    IsUsed();
    MutexLock lock(&mu_);
    if (event.kind == store::EventKind::kEvicted) order_ += event.namespace_name[0];
  }
  std::string order() const {
    MutexLock lock(&mu_);
    return order_;
  }

 private:
  mutable Mutex mu_;
  std::string order_ ABSL_GUARDED_BY(mu_);
};

class DemoterTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (HasFatalFailure()) return;
    if (is_fake()) before_ = fake().UseOf(0);
    store_.emplace(store::StoreOptions{.capacity_bytes = 64 << 20}, clock_, &departed_);
    ns_ = *store_->CreateNamespace({.name = "kv", .quota_bytes = 32 << 20});
  }
  void TearDown() override {
    if (is_fake()) fake().ClearFaults();
    EndAll();
    // A thread that was left behind ends when its GPU goes on.
    if (is_fake()) {
      EXPECT_TRUE(Eventually([&] { return fake().UseOf(0) == before_; })) << "not given back";
    }
    GpuTest::TearDown();
  }

  void EndAll() {
    tiers_.reset();
    buffer_.reset();
    chunks_.clear();
    ns_.reset();
    store_.reset();
  }

  void AddTier(Demoter::Options options = {}) {
    AddDemotion(std::move(options));
    MapChunks();
  }
  void AddDemotion(Demoter::Options options = {}) {
    tiers_.emplace(TierOptions{.chunk_bytes = kTierBytes / 2, .demote = true, .demotion = options});
    const TierResult added =
        tiers_->Add(*store_, {.ns = ns_, .device = device_.uuid, .bytes = kTierBytes});
    ASSERT_TRUE(added.status.ok()) << added.status;
  }
  // As a worker does it.
  void MapChunks() {
    buffer_.emplace(driver_, device_.ordinal);
    for (uint32_t i = 0; i < Tier()->chunk_count(); ++i) {
      const UniqueFd fd = OrDie(Tier()->OpenChunk(i, true));
      const auto chunk = OrDie(cuda::Allocation::Import(driver_, fd, kTierBytes / 2));
      chunks_.push_back(
          OrDie(cuda::Mapping::Map(chunk, device_.ordinal, cuda::Mapping::Access::kReadWrite)));
    }
  }
  NamespaceVerbs Tier() { return NamespaceVerbs(*ns_->FindDeviceTier(device_.uuid)); }
  // As a worker does it. Only while streams move.
  void Put(int i) {
    Put(i, [&](cuda::DevicePointer to) { buffer_->WriteTo(to, BytesOf(i)); });
  }
  template <class F>
  void Put(int i, F write) {
    auto lease = Tier().TryReserve(KeyOf(i), kBlock);
    ASSERT_TRUE(lease.ok() && lease->has_value()) << lease.status();
    const store::Place place = (*lease)->place();
    write(chunks_[place.chunk].address() + place.offset);
    ASSERT_TRUE(Tier()->Commit(**std::move(lease)).ok());
  }
  // Enough for what comes next to find room, as in a namespace whose objects do not move down.
  bool TheFullReserveIsFree() {
    const store::NamespaceStats stats = Tier()->Stats();
    return stats.quota_bytes - stats.used_bytes >= kTierBytes / 8;
  }
  static void ReserveAndCommit(const NamespaceVerbs& tier, int i) {
    auto lease = tier.TryReserve(KeyOf(i), kBlock);
    ASSERT_TRUE(lease.ok() && lease->has_value()) << lease.status();
    ASSERT_TRUE(tier->Commit(**std::move(lease)).ok());
  }
  void PutWithoutWriting(int i) {
    Put(i, [](cuda::DevicePointer) {});
  }

  SupportingClock clock_;
  Departed departed_;
  std::optional<store::Store> store_;
  std::shared_ptr<store::Namespace> ns_;
  std::optional<DeviceTiers> tiers_;
  std::optional<DeviceBuffer> buffer_;
  std::vector<cuda::Mapping> chunks_;
  fake_cuda::Use before_;
};

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

// The daemon has one on no other thread, and the driver may want it.
TEST_F(DemoterTest, MapsWhereThereIsAContext) {
  if (!is_fake()) GTEST_SKIP() << "takes a fault";
  const uint64_t before = fake().UseOf(0).mappings;
  fake().faults().maps_need_context.store(1);
  AddDemotion();
  EXPECT_TRUE(Eventually([&] { return fake().UseOf(0).mappings == before + 2; }));
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
