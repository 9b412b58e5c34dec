// What defines each eviction policy, on blocks that are no more than numbers.

#include "server/store/eviction/policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "server/store/eviction/block_cache.h"

namespace infercache::store {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr size_t kBlocks = 4096;
constexpr const char* kAll[] = {"auto", "lru", "fifo", "lfu", "s3fifo", "arc"};

// A policy with verbs: each use is a request of its own, a second after the one before.
class Blocks {
 public:
  explicit Blocks(std::string_view policy, size_t capacity = kBlocks)
      : cache_(policy, kBlocks, capacity) {}

  void Use(uint32_t block, uint32_t anchor = 0) {
    now_ms_ += 1000;
    cache_.Touch(block, {.now_ms = now_ms_, .request = ++request_, .anchor = anchor});
  }
  void UseAll(uint32_t first, uint32_t last) {
    for (uint32_t block = first; block <= last; ++block) Use(block);
  }
  bool Has(uint32_t block) const { return cache_.Has(block); }
  // Evicts the victim, or what may go before it.
  uint32_t Evict(Policy::MayGo may_go = [](uint32_t) { return true; }) {
    const uint32_t victim = cache_.policy().Victim(now_ms_, may_go);
    if (victim != 0) cache_.Drop(victim, now_ms_, /*evicted=*/true);
    return victim;
  }
  std::vector<uint32_t> Evict(int count) {
    std::vector<uint32_t> victims;
    for (int i = 0; i < count; ++i) victims.push_back(Evict());
    return victims;
  }
  BlockCache& cache() { return cache_; }

 private:
  BlockCache cache_;
  uint64_t now_ms_ = 1'000'000;
  uint64_t request_ = 0;
};

TEST(PolicyNames, AreCheckedAndListed) {
  for (const char* name : kAll) EXPECT_TRUE(CheckPolicyName(name).ok()) << name;
  const absl::Status status = CheckPolicyName("clairvoyant");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr("unknown policy 'clairvoyant'; there are auto, lru, fifo, lfu, s3fifo, arc"));
  EXPECT_FALSE(CheckPolicyName("").ok());
}

TEST(Lru, TheLeastRecentlyUsedGoesFirst) {
  Blocks blocks("lru");
  blocks.UseAll(1, 4);
  blocks.Use(1);
  blocks.Use(3);
  EXPECT_THAT(blocks.Evict(4), ElementsAre(2, 4, 1, 3));
}

TEST(Lru, WhatContinuesAChainGoesBeforeIt) {
  Blocks blocks("lru");
  blocks.Use(1);
  blocks.Use(9);
  // A piece of a chain, from its last block to its first, all behind the block where it goes on.
  blocks.Use(3, /*anchor=*/1);
  blocks.Use(2, /*anchor=*/1);
  EXPECT_THAT(blocks.Evict(4), ElementsAre(3, 2, 1, 9));
}

TEST(Fifo, UsesChangeNothing) {
  Blocks blocks("fifo");
  blocks.UseAll(1, 3);
  blocks.Use(1);
  EXPECT_THAT(blocks.Evict(3), ElementsAre(1, 2, 3));
}

TEST(Lfu, TheLeastOftenUsedGoesFirstAndTheOlderOfTwo) {
  Blocks blocks("lfu");
  blocks.UseAll(1, 4);
  blocks.Use(1);
  blocks.Use(1);
  blocks.Use(3);
  EXPECT_THAT(blocks.Evict(4), ElementsAre(2, 4, 3, 1));
}

TEST(Lfu, WhoWasPopularLongAgoGoesInTheEnd) {
  Blocks blocks("lfu", /*capacity=*/4);
  for (int i = 0; i < 5; ++i) blocks.Use(1);
  // Each is used twice: the floor rises by two for each that goes.
  for (uint32_t block = 10; block < 40 && blocks.Has(1); ++block) {
    blocks.Use(block);
    blocks.Use(block);
  }
  EXPECT_FALSE(blocks.Has(1));
}

TEST(Lfu, CountsEnd) {
  Blocks blocks("lfu");
  for (int i = 0; i < 1000; ++i) blocks.Use(1);
  blocks.Use(2);
  EXPECT_THAT(blocks.Evict(2), ElementsAre(2, 1));
}

TEST(S3Fifo, AScanPassesThroughTheSmallQueue) {
  Blocks blocks("s3fifo", /*capacity=*/100);
  blocks.UseAll(1, 100);
  blocks.UseAll(1, 80);  // used again while there: they belong to the main queue
  blocks.UseAll(1000, 2000);
  for (uint32_t block = 1; block <= 80; ++block) EXPECT_TRUE(blocks.Has(block)) << block;
}

TEST(S3Fifo, WhoComesBackSoonIsSpared) {
  Blocks blocks("s3fifo", /*capacity=*/100);
  blocks.UseAll(1, 100);
  blocks.UseAll(1, 80);
  blocks.UseAll(101, 140);
  ASSERT_FALSE(blocks.Has(101));
  blocks.Use(101);  // its ghost says that it left too early
  blocks.UseAll(1000, 2000);
  EXPECT_TRUE(blocks.Has(101));
}

TEST(Arc, AScanDoesNotEvictWhatIsUsedOften) {
  Blocks blocks("arc", /*capacity=*/100);
  blocks.UseAll(1, 50);
  blocks.UseAll(1, 50);
  blocks.UseAll(1000, 2000);
  for (uint32_t block = 1; block <= 50; ++block) EXPECT_TRUE(blocks.Has(block)) << block;
}

TEST(Arc, ALoopTooLargeForTheRestMakesRoomForItself) {
  Blocks blocks("arc", /*capacity=*/100);
  blocks.UseAll(1, 90);
  blocks.UseAll(1, 90);
  // Ten blocks of room for a loop of forty: hits in the ghosts of those used once say so.
  int hits = 0;
  for (int round = 0; round < 20; ++round) {
    for (uint32_t block = 1000; block < 1040; ++block) {
      hits += blocks.Has(block) ? 1 : 0;
      blocks.Use(block);
    }
  }
  EXPECT_GT(hits, 600);
}

TEST(CountUse, UsesWithinTheTimeOfARequestAreOneUnlessTheyAreTooMany) {
  PolicyNode node{.used_ms = 1000};
  const auto repeats = [&node](uint64_t now_ms) {
    Use use{.now_ms = now_ms};
    CountUse(node, &use);
    return use.repeat;
  };
  // Looked for, read, stored, touched.
  EXPECT_TRUE(repeats(1001));
  EXPECT_TRUE(repeats(1002));
  EXPECT_TRUE(repeats(1003));
  EXPECT_FALSE(repeats(1004)) << "another request's";
  EXPECT_EQ(node.used_ms, 1004u);
  EXPECT_TRUE(repeats(1103));
  EXPECT_FALSE(repeats(1104));
  EXPECT_TRUE(repeats(1203));
  EXPECT_TRUE(repeats(1203));
  EXPECT_TRUE(repeats(1203)) << "counted anew";
}

class EveryPolicy : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Policies, EveryPolicy, ::testing::ValuesIn(kAll));

TEST_P(EveryPolicy, PassesOverWhatMayNotGo) {
  Blocks blocks(GetParam());
  blocks.UseAll(1, 20);
  blocks.UseAll(1, 10);
  std::set<uint32_t> gone;
  for (int i = 0; i < 10; ++i) {
    gone.insert(blocks.Evict([](uint32_t block) { return block % 2 == 0; }));
  }
  EXPECT_EQ(gone.size(), 10u);
  for (const uint32_t block : gone) EXPECT_EQ(block % 2, 0u);
  EXPECT_EQ(blocks.Evict([](uint32_t block) { return block % 2 == 0; }), 0u);
  EXPECT_EQ(blocks.Evict([](uint32_t) { return false; }), 0u);
  EXPECT_NE(blocks.Evict(), 0u);
}

TEST_P(EveryPolicy, NamesNobodyWhenEmpty) {
  Blocks blocks(GetParam());
  EXPECT_EQ(blocks.Evict(), 0u);
  blocks.Use(1);
  EXPECT_EQ(blocks.Evict(), 1u);
  EXPECT_EQ(blocks.Evict(), 0u);
}

// Thousands of pinned blocks at the cold end cost one pass, not one for every victim.
TEST_P(EveryPolicy, PassesOverEachOnceInATurn) {
  Blocks blocks(GetParam());
  blocks.UseAll(1, 2000);
  int asked = 0;
  for (int i = 0; i < 500; ++i) {
    EXPECT_NE(blocks.Evict([&asked](uint32_t block) {
      ++asked;
      return block > 1000;
    }),
              0u);
  }
  EXPECT_LE(asked, 2 * 2000 + 500);
}

// Of each policy with requests of one block, and of 16.
class PolicyMemory : public ::testing::TestWithParam<std::tuple<const char*, uint32_t>> {
 protected:
  static constexpr uint32_t kObjects = 65'536;
  static constexpr double kMostBytes = 128;
  static constexpr double kGhostBytes = 36;
  static constexpr double kRounding = 1;  // pieces of tables that are not full

  // Requests for so many new blocks, and one in three for blocks half as old as all of them.
  void Store(uint32_t blocks) {
    const uint32_t a_request = std::get<1>(GetParam());
    for (const uint32_t end = next_ + blocks; next_ < end; next_ += a_request) {
      now_ms_ += 10;
      ++request_;
      for (uint32_t i = a_request; i-- > 0;) Use(next_ + i, i + 1 == a_request);
      if (request_ % 3 != 0) continue;
      ++request_;
      for (uint32_t i = a_request; i-- > 0;) Use(1 + next_ / 2 + i, i + 1 == a_request);
    }
  }
  double BytesAnObject() {
    return sizeof(PolicyNode) + static_cast<double>(cache_.policy().memory_bytes()) / kObjects;
  }

  BlockCache cache_ = BlockCache(std::get<0>(GetParam()), 4 * kObjects, kObjects);

 private:
  void Use(uint32_t block, bool ends_request) {
    cache_.Touch(block, {.now_ms = now_ms_, .request = request_, .ends_request = ends_request});
  }

  uint32_t next_ = 1;
  uint64_t now_ms_ = 1'000'000, request_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Policies, PolicyMemory,
                         ::testing::Combine(::testing::ValuesIn(kAll), ::testing::Values(1, 16)),
                         [](const auto& info) {
                           return std::get<0>(info.param) +
                                  std::to_string(std::get<1>(info.param)) + "Blocks";
                         });

TEST_P(PolicyMemory, IsAtMost128BytesAnObjectAndItsGhosts) {
  Store(kObjects);
  ASSERT_EQ(cache_.size(), kObjects);
  EXPECT_LE(BytesAnObject(), kMostBytes) << "nothing has gone: there are no ghosts";
  RecordProperty("bytes_an_object", std::to_string(BytesAnObject()));
  Store(2 * kObjects);
  ASSERT_EQ(cache_.size(), kObjects);
  constexpr double kMostGhosts = 2;  // an object
  EXPECT_LE(BytesAnObject(), kMostBytes + kMostGhosts * kGhostBytes + kRounding);
}

TEST_P(EveryPolicy, HoldsWhatFitsUnderRandomUses) {
  for (const size_t capacity : {1u, 2u, 17u, 300u}) {
    Blocks blocks(GetParam(), capacity);
    uint64_t x = capacity;
    for (int i = 0; i < 20'000; ++i) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      const auto block = static_cast<uint32_t>((x >> 33) % 1000 * ((x >> 50) % 4) + 1);
      blocks.Use(block, (x >> 60) == 0 ? block % 997 + 1 : 0);
      ASSERT_LE(blocks.cache().size(), capacity);
    }
    std::set<uint32_t> there;
    for (uint32_t block = 1; block < kBlocks; ++block) {
      if (blocks.Has(block)) there.insert(block);
    }
    EXPECT_EQ(there.size(), blocks.cache().size());
    while (!there.empty()) EXPECT_EQ(there.erase(blocks.Evict()), 1u);
    EXPECT_EQ(blocks.Evict(), 0u);
  }
}

}  // namespace
}  // namespace infercache::store
