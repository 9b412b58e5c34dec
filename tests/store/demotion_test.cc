// Objects on their way from a tier down to host memory, and what others do to them meanwhile. The
// tier here is one that nobody can touch: its bytes are what the tests say they are.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <string>
#include <thread>
#include <utility>

#include "tests/store/store_fixture.h"
#include "tests/store/unreachable_chunks.h"

namespace infercache::store {
namespace {

constexpr uint64_t kTierBytes = uint64_t{64} << 10;
constexpr uint64_t kBlock = 4096;

class DemotionTest : public StoreFixture {
 protected:
  void SetUp() override { Make(kMiB); }
  void Make(uint64_t host_bytes) {
    if (host_.shared() != nullptr) {
      tier_.Release();
      host_.Release();
      ASSERT_TRUE(store_->DeleteNamespace("kv").ok());
    }
    host_ = Create("kv", host_bytes);
    const auto low_room = [this] {
      ++told_;
      return works_;
    };
    ASSERT_TRUE(AddUnreachableTier(*store_, *host_, "GPU-a", kTierBytes, low_room).ok());
    tier_ = NamespaceVerbs(*host_->FindDeviceTier("GPU-a"));
  }

  void PutInTier(std::string_view key, uint64_t size = kBlock, const PutOptions& options = {}) {
    auto lease = tier_.TryReserve(key, size, options);
    ASSERT_TRUE(lease.ok() && lease->has_value()) << lease.status();
    const auto outcome = tier_->Commit(**std::move(lease));
    ASSERT_TRUE(outcome.ok() && *outcome == CommitOutcome::kStored) << outcome.status();
  }
  // What is worth least, with `fill` for bytes.
  std::vector<Namespace::Demotion> Begin(size_t limit = 1, char fill = 'x') {
    auto demotions = tier_->BeginDemotion(kTierBytes, limit);
    for (Namespace::Demotion& demotion : demotions) {
      if (!demotion.to.has_value()) continue;
      const std::span<std::byte> bytes = demotion.to->bytes();
      std::fill(bytes.begin(), bytes.end(), std::byte(fill));
    }
    return demotions;
  }
  // While f runs, or just before or after.
  template <class F>
  void FinishBeside(std::vector<Namespace::Demotion> demotions, F f) {
    std::atomic<bool> begins{false};
    std::thread mover([&] {
      begins.store(true);
      tier_->FinishDemotion(std::move(demotions));
    });
    while (!begins.load()) std::this_thread::yield();
    f();
    mover.join();
  }
  size_t Demote(size_t limit = 1) { return tier_->FinishDemotion(Begin(limit)); }

  NamespaceVerbs host_{nullptr}, tier_{nullptr};
  int told_ = 0;
  bool works_ = true;
};

TEST_F(DemotionTest, MovesWhatWouldGoNextWithAllThatIsKnownOfIt) {
  PutOptions options;
  options.fingerprint = Fingerprint::Make({{"model", "m"}})->hash();
  options.info = {.kind = ObjectKind::kKv, .compute_cost_ms = 2, .class_id = 3, .ttl_ms = 60'000};
  options.parts = {{.dtype = DataType::kFloat32, .shape = {1024}, .size_bytes = kBlock}};
  PutInTier("old", kBlock, options);
  PutInTier("new");
  clock_.AdvanceMs(10'000);
  EXPECT_EQ(Demote(), 1u);
  EXPECT_FALSE(tier_.Has("old", options.fingerprint));
  EXPECT_TRUE(tier_.Has("new"));
  const auto found = host_.Lookup("old", options.fingerprint);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(Bytes(*found), std::string(kBlock, 'x'));
  EXPECT_EQ(found->parts(), options.parts);
  EXPECT_EQ(found->info().kind, ObjectKind::kKv);
  EXPECT_EQ(found->info().class_id, 3);
  EXPECT_NEAR(static_cast<double>(found->info().ttl_ms), 50'000, 200);
  const NamespaceStats stats = tier_->Stats();
  EXPECT_EQ(stats.demoted, 1u);
  EXPECT_EQ(stats.demoted_bytes, kBlock);
  EXPECT_EQ(stats.pins, 0u);
}

TEST_F(DemotionTest, KeepsRoomFreeSoThatPutsNeedNotEvict) {
  for (int i = 0; i < 100; ++i) {
    PutInTier("key" + std::to_string(i));
    tier_.MaintainAll();
    while (tier_->BytesToDemote() > 0) ASSERT_GT(Demote(4), 0u);
  }
  const NamespaceStats stats = tier_->Stats();
  EXPECT_EQ(stats.evicted, stats.demoted);
  EXPECT_EQ(stats.objects + host_->Stats().objects, 100u);
  EXPECT_GT(told_, 0);
}

// It went on with the quarter of the reserve that is enough beside him, and puts evicted.
TEST_F(DemotionTest, UpkeepMakesTheRoomThatNobodyElseMakes) {
  const auto free_after_upkeep = [this] {
    for (int i = 0; i < 16; ++i) {
      PutInTier("key" + std::to_string(i), kBlock, {.overwrite = true, .info = {}, .parts = {}});
    }
    tier_.MaintainAll();
    const NamespaceStats stats = tier_->Stats();
    return stats.quota_bytes - stats.used_bytes;
  };
  constexpr uint64_t kReserve = kTierBytes / 8;
  EXPECT_LT(free_after_upkeep(), kReserve);
  const uint64_t wanted = tier_->BytesToDemote();
  EXPECT_GT(wanted, kReserve);
  works_ = false;
  EXPECT_GE(free_after_upkeep(), kReserve);
  EXPECT_LE(tier_->BytesToDemote(), wanted) << "should he come back";
  works_ = true;
  EXPECT_LT(free_after_upkeep(), kReserve);
}

TEST_F(DemotionTest, WhatWasErasedMeanwhileDoesNotComeUpAgain) {
  PutInTier("key");
  auto demotions = Begin();
  EXPECT_TRUE(tier_.Erase("key"));
  EXPECT_EQ(tier_->FinishDemotion(std::move(demotions)), 0u);
  EXPECT_FALSE(host_.Has("key"));
  EXPECT_EQ(host_->Stats().reservations, 0u);
}

TEST_F(DemotionTest, WhatWasReplacedMeanwhileStays) {
  PutInTier("key", 10);
  auto demotions = Begin();
  PutInTier("key", 20, {.overwrite = true, .info = {}, .parts = {}});
  EXPECT_EQ(tier_->FinishDemotion(std::move(demotions)), 0u);
  EXPECT_FALSE(host_.Has("key"));
  EXPECT_EQ(tier_.Lookup("key")->size_bytes(), 20u);
}

TEST_F(DemotionTest, WhatMovedDownIsReplacedAndErasedFromAbove) {
  PutInTier("replaced");
  PutInTier("erased");
  ASSERT_EQ(Demote(2), 2u);
  ASSERT_TRUE(host_.Has("replaced") && host_.Has("erased"));
  PutInTier("replaced", 20, {.overwrite = true, .info = {}, .parts = {}});
  EXPECT_FALSE(host_.Has("replaced"));
  EXPECT_TRUE(tier_.Erase("erased"));
  EXPECT_FALSE(host_.Has("erased"));
}

TEST_F(DemotionTest, WhatSomebodyHoldsStays) {
  PutInTier("key");
  auto demotions = Begin();
  const auto held = tier_.Lookup("key");
  EXPECT_EQ(tier_->FinishDemotion(std::move(demotions)), 0u);
  EXPECT_TRUE(tier_.Has("key"));
  EXPECT_FALSE(host_.Has("key"));
  EXPECT_TRUE(Begin().empty()) << "it is held";
}

TEST_F(DemotionTest, WhatIsBelowAlreadyIsNotCopied) {
  PutInTier("key");
  host_.MustPut("key", "from elsewhere");
  auto demotions = Begin();
  ASSERT_EQ(demotions.size(), 1u);
  EXPECT_FALSE(demotions[0].to.has_value());
  EXPECT_EQ(tier_->FinishDemotion(std::move(demotions)), 1u);
  EXPECT_FALSE(tier_.Has("key"));
  EXPECT_EQ(host_.Get("key"), "from elsewhere");
}

TEST_F(DemotionTest, WithoutRoomBelowThingsAreAsWithoutDemotion) {
  Make(64 << 10);
  const WriteLease all = host_.Reserve("all", std::string(64 << 10, 'a'));
  for (int i = 0; i < 40; ++i) {
    PutInTier("key" + std::to_string(i));
    EXPECT_EQ(Demote(), 0u);
  }
  const NamespaceStats stats = tier_->Stats();
  EXPECT_GE(stats.demotions_refused, 40u);
  EXPECT_GT(stats.evicted, 0u);
  EXPECT_EQ(stats.demoted, 0u);
  EXPECT_EQ(stats.demoting_ms, 0u);
}

TEST_F(DemotionTest, WhatIsOverIsNotMoved) {
  PutOptions options;
  options.info.ttl_ms = 1000;
  PutInTier("key", kBlock, options);
  clock_.AdvanceMs(1500);
  EXPECT_EQ(Demote(), 0u);
  EXPECT_FALSE(host_.Has("key"));
  EXPECT_EQ(tier_->Stats().expired, 1u);
}

TEST_F(DemotionTest, EndsWhenItWouldHaveHoweverLongItWasOnItsWay) {
  clock_.AdvanceMs(12'345);
  PutOptions options;
  options.info.ttl_ms = 60'000;
  PutInTier("key", kBlock, options);
  auto demotions = Begin();
  clock_.AdvanceMs(59'900);
  EXPECT_EQ(tier_->FinishDemotion(std::move(demotions)), 1u);
  EXPECT_TRUE(host_.Has("key"));
  clock_.AdvanceMs(200);  // a tick more, to which it was rounded up
  EXPECT_FALSE(host_.Has("key"));
}

// It is no longer above when somebody erases it, and not yet below.
TEST_F(DemotionTest, WhatIsErasedBetweenItsPlacesDoesNotComeUpAgain) {
  PutInTier("key");
  PutInTier("another");
  auto demotions = Begin(2);
  ASSERT_EQ(demotions.size(), 2u);
  bool erased = false, again = false;
  observer_.Beside(EventKind::kEvicted, [&] {
    EXPECT_FALSE(tier_.Has("key") || host_.Has("key"));
    erased = tier_.Erase("key");
    again = tier_.Erase("key");
  });
  EXPECT_EQ(tier_->FinishDemotion(std::move(demotions)), 2u);
  EXPECT_TRUE(erased);
  EXPECT_FALSE(again) << "it was gone already";
  EXPECT_FALSE(tier_.Has("key"));
  EXPECT_FALSE(host_.Has("key"));
  EXPECT_TRUE(host_.Has("another"));
}

TEST_F(DemotionTest, WhatIsReplacedBetweenItsPlacesDoesNotComeUpAgain) {
  for (const bool overwrite : {false, true}) {
    PutInTier("key");
    auto demotions = Begin();
    observer_.Beside(EventKind::kEvicted, [&] {
      PutInTier("key", 20, {.overwrite = overwrite, .info = {}, .parts = {}});
    });
    EXPECT_EQ(tier_->FinishDemotion(std::move(demotions)), 1u);
    EXPECT_FALSE(host_.Has("key")) << overwrite;
    EXPECT_EQ(tier_.Lookup("key")->size_bytes(), 20u);
    EXPECT_TRUE(tier_.Erase("key"));
  }
}

TEST_F(DemotionTest, WhatWasErasedAfterItWasMovedMayBeStoredAndMovedAgain) {
  PutInTier("key");
  auto demotions = Begin();
  observer_.Beside(EventKind::kEvicted, [&] { EXPECT_TRUE(tier_.Erase("key")); });
  EXPECT_EQ(tier_->FinishDemotion(std::move(demotions)), 1u);
  PutInTier("key");
  EXPECT_EQ(Demote(), 1u);
  EXPECT_TRUE(host_.Has("key"));
}

TEST_F(DemotionTest, WhatIsDroppedOnTheWayStays) {
  PutInTier("key");
  {
    const auto demotions = Begin();
    clock_.AdvanceMs(7000);
    EXPECT_EQ(tier_->Stats().demoting_ms, 7000u);
    // Meanwhile puts get what they need.
    for (int i = 0; i < 40; ++i) PutInTier("key" + std::to_string(i));
  }
  EXPECT_EQ(tier_->FinishDemotion({}), 0u);
  EXPECT_EQ(tier_->Stats().demoting_ms, 0u);
  EXPECT_TRUE(tier_.Has("key"));
  EXPECT_EQ(host_->Stats().objects, 0u);
}

// Either the writer comes second and erases below, or the one who moves does, and takes it back.
TEST_F(DemotionTest, APredecessorNeverOutlivesItsSuccessorBelow) {
  for (int round = 0; round < 500; ++round) {
    PutInTier("key", 10, {.overwrite = true, .info = {}, .parts = {}});
    auto demotions = Begin();
    ASSERT_EQ(demotions.size(), 1u);
    FinishBeside(std::move(demotions),
                 [this] { PutInTier("key", 20, {.overwrite = true, .info = {}, .parts = {}}); });
    ASSERT_FALSE(host_.Has("key")) << round;
    ASSERT_EQ(tier_.Lookup("key")->size_bytes(), 20u);
  }
}

// Begun when the flush was counted already, it was found in neither place, and came up again below.
TEST_F(DemotionTest, WhatIsBegunWhileAFlushIsUnderWayDoesNotOutliveIt) {
  // In more shards than one, of which the flush visits the rest later.
  for (int i = 0; i < 16; ++i) PutInTier("key" + std::to_string(i));
  std::promise<void> left, flushed;
  std::thread mover;
  size_t moved = 0;
  observer_.Beside(EventKind::kFlushed, [&] {
    auto demotions = Begin(16);
    ASSERT_FALSE(demotions.empty());
    observer_.Beside(EventKind::kEvicted, [&] {
      left.set_value();
      flushed.get_future().wait();
    });
    mover = std::thread([&, taken = std::move(demotions)]() mutable {
      moved = tier_->FinishDemotion(std::move(taken));
    });
    left.get_future().wait();
  });
  host_->Flush("");
  flushed.set_value();
  mover.join();
  EXPECT_GT(moved, 0u);
  EXPECT_EQ(host_->Stats().objects, 0u);
  EXPECT_EQ(tier_->Stats().objects, 0u);
}

TEST_F(DemotionTest, NothingOutlivesAFlush) {
  for (int round = 0; round < 500; ++round) {
    PutInTier("key");
    auto demotions = Begin();
    ASSERT_EQ(demotions.size(), 1u);
    FinishBeside(std::move(demotions), [this] { host_->Flush(""); });
    ASSERT_FALSE(host_.Has("key")) << round;
    ASSERT_FALSE(tier_.Has("key")) << round;
  }
}

}  // namespace
}  // namespace infercache::store
