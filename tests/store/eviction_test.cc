// Who goes when room is needed, who stays, and what happens when nobody may go.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/store/store_fixture.h"

namespace infercache::store {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

std::string KeyOf(int i) { return "block:" + std::to_string(i); }

class Eviction : public StoreFixture {
 protected:
  // A namespace for `objects` objects of `size` bytes, filled with KeyOf(0..objects), oldest first.
  void Fill(int objects, size_t size, uint32_t shards = 64) {
    OpenStore({.capacity_bytes = 256 * kMiB, .shards = shards, .background = false});
    ns_ = Create("evicting", QuotaForLiveObjects(objects, size), /*max_objects=*/2 * objects + 64);
    value_.assign(size, 'v');
    for (int i = 0; i < objects; ++i) {
      clock_.AdvanceMs(1);
      ns_.MustPut(KeyOf(i), value_);
    }
    ASSERT_EQ(ns_->Stats().objects, static_cast<uint64_t>(objects));
    ASSERT_EQ(ns_->Stats().evicted, 0u);
  }
  // The blocks that are still there.
  std::vector<int> Survivors(int of) const {
    std::vector<int> survivors;
    for (int i = 0; i < of; ++i) {
      if (ns_.Has(KeyOf(i))) survivors.push_back(i);
    }
    return survivors;
  }

  NamespaceVerbs ns_ = NamespaceVerbs(nullptr);
  std::string value_;
};

struct LiveObjectsCase {
  uint64_t objects;
  uint64_t object_bytes;
};

class QuotaForLiveObjectsTest : public StoreFixture,
                                public ::testing::WithParamInterface<LiveObjectsCase> {};

// "A capacity for N blocks means N live blocks", whatever upkeep does.
TEST_P(QuotaForLiveObjectsTest, HoldsThatMany) {
  const auto [objects, object_bytes] = GetParam();
  const uint64_t quota = QuotaForLiveObjects(objects, object_bytes);
  OpenStore({.capacity_bytes = quota + kMiB, .background = false});
  const NamespaceVerbs ns = Create("live", quota, objects);
  const std::string value(object_bytes, 'v');
  // Twice as many pass through, so that the arena has been in use when the last of them settle.
  for (uint64_t i = 0; i < 2 * objects; ++i) {
    ns.MustPut(KeyOf(static_cast<int>(i)), value);
    ns->Maintain();
  }
  ns.MaintainAll();
  EXPECT_GE(ns->Stats().objects, objects);
  for (uint64_t i = objects; i < 2 * objects; ++i) {
    EXPECT_TRUE(ns.Has(KeyOf(static_cast<int>(i)))) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, QuotaForLiveObjectsTest,
                         ::testing::Values(LiveObjectsCase{1, 1}, LiveObjectsCase{1, 1 << 20},
                                           LiveObjectsCase{3, 100'000}, LiveObjectsCase{10, 4096},
                                           LiveObjectsCase{100, 65'536}, LiveObjectsCase{1000, 1},
                                           LiveObjectsCase{1000, 65}, LiveObjectsCase{5000, 4097}));

TEST_F(Eviction, OldestGoesFirst) {
  Fill(256, 4096);
  for (int i = 256; i < 356; ++i) {
    clock_.AdvanceMs(1);
    ns_.MustPut(KeyOf(i), value_);
  }
  const std::vector<int> survivors = Survivors(356);
  // Every survivor is younger than every victim: exact LRU over 64 shards.
  for (size_t i = 0; i < survivors.size(); ++i) {
    EXPECT_EQ(survivors[i], 356 - static_cast<int>(survivors.size()) + static_cast<int>(i));
  }
  EXPECT_GE(survivors.size(), 256u);
  EXPECT_EQ(ns_->Stats().evicted, 356 - survivors.size());
  EXPECT_EQ(Events(EventKind::kEvicted).size(), ns_->Stats().evicted);
}

// Many uses happen within one millisecond of the coarse clock.
TEST_F(Eviction, OrderHoldsWithinOneMillisecond) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("evicting", QuotaForLiveObjects(64, 4096));
  value_.assign(4096, 'v');
  for (int i = 0; i < 200; ++i) ns_.MustPut(KeyOf(i), value_);
  const std::vector<int> survivors = Survivors(200);
  EXPECT_GE(survivors.size(), 64u);
  for (size_t i = 0; i < survivors.size(); ++i) {
    EXPECT_EQ(survivors[i], 200 - static_cast<int>(survivors.size()) + static_cast<int>(i));
  }
}

TEST_F(Eviction, UseKeeps) {
  Fill(64, 4096);
  clock_.AdvanceMs(1);
  EXPECT_TRUE(ns_.Lookup(KeyOf(0)));
  EXPECT_TRUE(ns_.Touch(KeyOf(1)));
  EXPECT_TRUE(ns_.Has(KeyOf(2)));  // looks, does not touch
  EXPECT_EQ(*ns_.Put(KeyOf(3), value_), CommitOutcome::kExists);
  for (int i = 64; i < 104; ++i) {
    clock_.AdvanceMs(1);
    ns_.MustPut(KeyOf(i), value_);
  }
  EXPECT_TRUE(ns_.Has(KeyOf(0))) << "a hit is a use";
  EXPECT_TRUE(ns_.Has(KeyOf(1))) << "a touch is a use";
  EXPECT_FALSE(ns_.Has(KeyOf(2))) << "a probe without touch is none";
  EXPECT_TRUE(ns_.Has(KeyOf(3))) << "EXISTS touches";
}

TEST_F(Eviction, ListIsNoUse) {
  Fill(16, 4096);
  EXPECT_THAT(ns_.Keys(), SizeIs(16));
  clock_.AdvanceMs(5'000);
  EXPECT_THAT(ns_.Keys(), SizeIs(16));
  for (int i = 16; i < 26; ++i) ns_.MustPut(KeyOf(i), value_);
  const std::vector<SeenEvent> evicted = Events(EventKind::kEvicted);
  EXPECT_FALSE(evicted.empty());
  for (const SeenEvent& event : evicted) EXPECT_GE(event.idle_ms, 5'000u);
}

TEST_F(Eviction, PinnedObjectsStay) {
  Fill(32, 4096);
  const std::optional<ReadLease> pinned = ns_.Lookup(KeyOf(0));
  for (int i = 32; i < 232; ++i) {
    clock_.AdvanceMs(1);
    ns_.MustPut(KeyOf(i), value_);
  }
  EXPECT_TRUE(ns_.Has(KeyOf(0)));
  EXPECT_EQ(Bytes(*pinned), value_);
  EXPECT_EQ(ns_->Stats().limbo_bytes, 0u) << "a pinned object was chosen as a victim";
}

TEST_F(Eviction, RefusedWhenEverythingIsPinnedAndRecovers) {
  Fill(32, 4096);
  std::vector<ReadLease> pins;
  for (int i = 0; i < 32; ++i) pins.push_back(*ns_.Lookup(KeyOf(i)));
  std::vector<WriteLease> rest;  // the free reserve
  while (true) {
    auto reserved = ns_.TryReserve("new:" + std::to_string(rest.size()), 4096);
    if (!reserved.ok()) {
      EXPECT_EQ(reserved.status().code(), absl::StatusCode::kResourceExhausted);
      break;
    }
    ASSERT_TRUE(reserved->has_value());
    ASSERT_LT(rest.size(), 32u);
    rest.push_back(**std::move(reserved));
  }
  EXPECT_EQ(ns_->Stats().refused, 1u);
  EXPECT_THAT(Survivors(32), SizeIs(32));
  EXPECT_EQ(ns_->Stats().evicted, 0u);

  pins.erase(pins.begin() + 7);
  EXPECT_TRUE(ns_.TryReserve("new", 4096).ok());
  EXPECT_THAT(Survivors(32), SizeIs(31));
}

TEST_F(Eviction, RefusedWhenEverythingIsReservedAndRecovers) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("reserved", kMiB);
  std::vector<WriteLease> leases;
  while (true) {
    auto reserved = ns_.TryReserve(KeyOf(static_cast<int>(leases.size())), 64 * 1024);
    if (!reserved.ok()) {
      EXPECT_EQ(reserved.status().code(), absl::StatusCode::kResourceExhausted);
      break;
    }
    leases.push_back(**std::move(reserved));
  }
  EXPECT_EQ(leases.size(), 16u) << "a quota of 1 MiB holds 16 reservations of 64 KiB";
  EXPECT_LE(ns_->Stats().used_bytes, kMiB);
  leases.pop_back();
  auto again = ns_.TryReserve("again", 64 * 1024);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->has_value());
}

// Limbo that somebody reads cannot be freed; the moment he lets go, a put needs no upkeep first.
TEST_F(Eviction, RefusedWhenLimboIsReadAndRecoversWithoutMaintain) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("limbo", kMiB);
  const std::string big(kMiB - 64 * 1024, 'v');
  ns_.MustPut("big", big);
  std::optional<ReadLease> reader = ns_.Lookup("big");
  EXPECT_TRUE(ns_.Erase("big"));
  EXPECT_EQ(ns_.TryReserve("next", big.size()).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Bytes(*reader), big);
  reader.reset();
  ns_.MustPut("next", big);
  EXPECT_EQ(ns_.Get("next"), big);
}

TEST_F(Eviction, MaxObjectsEvicts) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("few", kMiB, /*max_objects=*/16);
  EXPECT_EQ(ns_->Stats().max_objects, 16u);
  for (int i = 0; i < 100; ++i) {
    clock_.AdvanceMs(1);
    ns_.MustPut(KeyOf(i), "small");
    ASSERT_LE(ns_->Stats().objects, 16u);
  }
  EXPECT_TRUE(ns_.Has(KeyOf(99)));
  EXPECT_TRUE(ns_.Has(KeyOf(98)));
  EXPECT_FALSE(ns_.Has(KeyOf(0)));
  EXPECT_GE(ns_->Stats().objects, 12u) << "far too many were evicted";
}

// Whatever the number is, and however it divides among shards and buckets: none of these is full
// first, neither at once nor when objects have come and gone for long.
TEST_F(Eviction, AsManyObjectsAsThereMayBeAreKept) {
  for (const uint32_t shards : {1, 64}) {
    OpenStore({.capacity_bytes = 64 * kMiB, .shards = shards, .background = false});
    for (const int objects : {1, 3, 65, 1'000, 4'097, 30'011}) {
      const std::string name = std::to_string(objects) + "-in-" + std::to_string(shards);
      ns_ = Create(name, QuotaForLiveObjects(objects, 64), objects);
      for (int i = 0; i < objects; ++i) ns_.MustPut(KeyOf(i), "small");
      const NamespaceStats stats = ns_->Stats();
      EXPECT_EQ(stats.objects, static_cast<uint64_t>(objects)) << name;
      EXPECT_EQ(stats.evicted, 0u) << name;
      const int last = 6 * objects;
      for (int i = objects; i < last; ++i) ns_.MustPut(KeyOf(i), "small");
      int kept = 0;
      while (kept < objects && ns_.Has(KeyOf(last - 1 - kept))) ++kept;
      EXPECT_GE(kept, objects - objects / 50 - 1) << name;
      ASSERT_TRUE(store_->DeleteNamespace(name).ok());
    }
  }
}

TEST_F(Eviction, MaxObjectsAllPinnedRefusesAndRecovers) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("few", kMiB, /*max_objects=*/4);
  std::vector<ReadLease> pins;
  for (int i = 0; i < 4; ++i) {
    ns_.MustPut(KeyOf(i), "small");
    pins.push_back(*ns_.Lookup(KeyOf(i)));
  }
  EXPECT_EQ(ns_.TryReserve("one more", 5).status().code(), absl::StatusCode::kResourceExhausted);
  pins.clear();
  ns_.MustPut("one more", "small");
  EXPECT_LE(ns_->Stats().objects, 4u);
}

// Records ran out, not bytes: one object must go, not the whole neighbourhood of its small block.
TEST_F(Eviction, MaxObjectsEvictsOneForALargeObject) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("few", kMiB, /*max_objects=*/64);
  for (int i = 0; i < 64; ++i) ns_.MustPut(KeyOf(i), "small");
  ns_.MustPut("large", std::string(64 * 1024, 'l'));
  EXPECT_LE(ns_->Stats().evicted, 2u);
  EXPECT_GE(ns_->Stats().objects, 62u);
}

// A prompt of thousands of blocks may be pinned for as long as it is computed; by then its blocks
// are the least recently used of all.
TEST_F(Eviction, ManyPinnedObjectsAtTheColdEndRefuseNobody) {
  Fill(2'000, 4096);
  std::vector<ReadLease> pins;
  for (int i = 0; i < 1'500; ++i) pins.push_back(*ns_.Lookup(KeyOf(i)));
  for (int i = 1'500; i < 2'000; ++i) EXPECT_TRUE(ns_.Touch(KeyOf(i)));
  for (int i = 2'000; i < 2'400; ++i) {
    const auto outcome = ns_.Put(KeyOf(i), value_);
    ASSERT_TRUE(outcome.ok()) << outcome.status() << " with 500 objects that nobody reads";
  }
  for (int i = 0; i < 1'500; ++i) ASSERT_TRUE(ns_.Has(KeyOf(i)));
}

// The least recently used objects lie scattered. Evicting down the list until some hole happens to
// be large enough would take hundreds of victims; a hole around the first victim takes 16.
TEST_F(Eviction, NeighboursMakeOneHole) {
  Fill(1024, 4096);
  for (int step = 0; step < 1024; ++step) {  // 389 and 1024 are coprime: a walk over all of them
    clock_.AdvanceMs(1);
    EXPECT_TRUE(ns_.Touch(KeyOf(step * 389 % 1024)));
  }
  // Use up the free reserve, so that the next put must evict.
  int fillers = 0;
  while (ns_->Stats().evicted == 0) {
    ns_.MustPut("filler:" + std::to_string(fillers++), value_);
    ASSERT_LT(fillers, 200);
  }
  const uint64_t evicted = ns_->Stats().evicted;
  ns_.MustPut("large", std::string(16 * 4096, 'l'));
  EXPECT_LE(ns_->Stats().evicted - evicted, 17u);
  EXPECT_EQ(ns_.Get("large"), std::string(16 * 4096, 'l'));
}

TEST_F(Eviction, MixedSizesAlwaysFindRoom) {
  OpenStore({.capacity_bytes = 64 * kMiB, .background = false});
  ns_ = Create("mixed", 8 * kMiB);
  uint64_t x = 12345;
  int stored = 0;
  for (int i = 0; i < 3'000; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const size_t size = (size_t{1} << (8 + (x >> 33) % 10)) + (x >> 45) % 256;  // 256 B .. 128 KiB
    const auto outcome = ns_.Put(KeyOf(i), std::string(size, 'v'));
    ASSERT_TRUE(outcome.ok()) << outcome.status() << " put " << i << " of " << size << " bytes";
    ++stored;
    ExpectConsistentGauges(ns_->Stats());
  }
  EXPECT_EQ(stored, 3'000);
}

// A thousand small ones lie where it goes. A fixed limit on victims refused it, after evicting that
// many in vain.
TEST_F(Eviction, LargeObjectAmongSmallOnesGetsThereAtOnce) {
  Fill(2048, 1024);
  const uint64_t before = ns_->Stats().evicted;
  const std::string large(1 << 20, 'l');
  ns_.MustPut("large", large);
  EXPECT_EQ(ns_.Get("large"), large);
  EXPECT_LE(ns_->Stats().evicted - before, 1024u);
}

// One object in eight is read: no hole for the large one, and little is evicted to find that out.
TEST_F(Eviction, OnePutThatFindsNoHoleEvictsAtMost64) {
  Fill(2048, 1024);
  std::vector<ReadLease> pins;
  for (int i = 0; i < 2048; i += 8) {
    if (auto lease = ns_.Lookup(KeyOf(i))) pins.push_back(*std::move(lease));
  }
  ASSERT_GT(pins.size(), 100u);
  const uint64_t before = ns_->Stats().evicted;
  EXPECT_EQ(ns_.TryReserve("large", 1 << 20).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_LE(ns_->Stats().evicted - before, 64u);
}

// Those that nobody wants any more are small, and what is pinned keeps them from being one hole:
// the put was refused, though large ones lay there as well.
TEST_F(Eviction, SmallObjectsBesideAPinnedOneDoNotRefuseALargeOne) {
  OpenStore({.capacity_bytes = 16 * kMiB, .background = false});
  ns_ = Create("mixed", 8 * kMiB);
  for (int i = 0; i < 200; ++i) ns_.MustPut(KeyOf(i), "small");
  const auto pin = ns_.Lookup(KeyOf(100));
  ASSERT_TRUE(pin.has_value());
  const std::string large(kMiB, 'l');
  for (int i = 0; i < 40; ++i) {
    clock_.AdvanceMs(1);
    const auto outcome = ns_.Put("large:" + std::to_string(i), large);
    ASSERT_TRUE(outcome.ok()) << i << ": " << outcome.status();
  }
  EXPECT_TRUE(ns_.Has(KeyOf(100)));
  EXPECT_TRUE(ns_.Has("large:39"));
}

TEST_F(Eviction, MaintainKeepsAReserveFree) {
  Fill(512, 4096);
  for (int i = 512; i < 1024; ++i) ns_.MustPut(KeyOf(i), value_);
  ns_.MaintainAll();
  const NamespaceStats stats = ns_->Stats();
  const uint64_t free_bytes = stats.quota_bytes - stats.used_bytes;
  EXPECT_GE(free_bytes, stats.quota_bytes / 100);
  EXPECT_GE(free_bytes, 4 * 4096u);
  EXPECT_GE(stats.objects, 512u) << "the reserve comes on top of the live objects";
  // With room in reserve, the next puts evict nothing.
  const uint64_t evicted = stats.evicted;
  ns_.MustPut("one", value_);
  ns_.MustPut("two", value_);
  EXPECT_EQ(ns_->Stats().evicted, evicted);
}

TEST_F(Eviction, MaintainWithNothingToDoEvictsNothing) {
  Fill(100, 4096);
  ns_.MaintainAll();
  EXPECT_FALSE(ns_->Maintain());
  EXPECT_EQ(ns_->Stats().evicted, 0u);
  EXPECT_THAT(Survivors(100), SizeIs(100));
}

TEST_F(Eviction, MaintainGivesUpOnPinnedObjects) {
  Fill(32, 4096);
  std::vector<ReadLease> pins;
  for (int i = 0; i < 32; ++i) pins.push_back(*ns_.Lookup(KeyOf(i)));
  std::vector<WriteLease> rest;
  for (auto reserved = ns_.TryReserve("r", 64); reserved.ok(); reserved = ns_.TryReserve("r", 64)) {
    rest.push_back(**std::move(reserved));
  }
  ns_.MaintainAll();  // must end although the reserve cannot be made
  EXPECT_EQ(ns_->Stats().evicted, 0u);
}

TEST_F(Eviction, StatsAndEventsAgree) {
  Fill(64, 4096);
  clock_.AdvanceMs(250);
  for (int i = 64; i < 128; ++i) ns_.MustPut(KeyOf(i), value_);
  const std::vector<SeenEvent> evicted = Events(EventKind::kEvicted);
  EXPECT_EQ(evicted.size(), ns_->Stats().evicted);
  uint64_t bytes = 0;
  for (const SeenEvent& event : evicted) {
    EXPECT_EQ(event.size_bytes, 4096u);
    EXPECT_EQ(event.namespace_name, "evicting");
    bytes += event.size_bytes;
  }
  EXPECT_EQ(bytes, ns_->Stats().evicted_bytes);
}

// Room for no further one was made of the only ones, which upkeep evicted.
TEST_F(Eviction, ObjectsThatNearlyFillTheNamespaceStay) {
  OpenStore({.capacity_bytes = 256 * kMiB, .background = false});
  for (const int objects : {1, 2, 7}) {
    ns_ = Create("large" + std::to_string(objects), 32 * kMiB);
    for (int i = 0; i < objects; ++i) {
      ns_.MustPut(KeyOf(i), std::string(32 * kMiB * 95 / 100 / static_cast<size_t>(objects), 'v'));
    }
    ns_.MaintainAll();
    EXPECT_EQ(ns_->Stats().objects, static_cast<uint64_t>(objects));
    ns_.MustPut("another", std::string(kMiB, 'v'));
  }
}

}  // namespace
}  // namespace infercache::store
