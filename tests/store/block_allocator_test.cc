// The allocator against an oracle: a list of what is allocated, and nothing else.

#include "server/store/block_allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "tests/store/pattern.h"

namespace infercache::store {
namespace {

using BlockId = BlockAllocator::BlockId;

struct Region {
  uint32_t start;
  uint32_t size;
};

// Knows the regions and the blocks that are allocated, and derives what must be free.
class Oracle {
 public:
  explicit Oracle(std::vector<Region> regions) : regions_(std::move(regions)) {}

  void Add(uint32_t start, uint32_t size) { used_.emplace(start, size); }
  void Remove(uint32_t start) { used_.erase(start); }
  bool Overlaps(uint32_t start, uint32_t size) const {
    const auto after = used_.lower_bound(start);
    if (after != used_.end() && after->first < uint64_t{start} + size) return true;
    if (after == used_.begin()) return false;
    const auto before = std::prev(after);
    return uint64_t{before->first} + before->second > start;
  }
  bool InOneRegion(uint32_t start, uint32_t size) const {
    return std::any_of(regions_.begin(), regions_.end(), [=](const Region& region) {
      return start >= region.start &&
             uint64_t{start} + size <= uint64_t{region.start} + region.size;
    });
  }
  uint32_t LargestFree() const {
    uint32_t largest = 0;
    for (const Region& region : regions_) {
      uint32_t at = region.start;
      for (auto it = used_.lower_bound(region.start);
           it != used_.end() && it->first < uint64_t{region.start} + region.size; ++it) {
        largest = std::max(largest, it->first - at);
        at = it->first + it->second;
      }
      largest = std::max(largest, region.start + region.size - at);
    }
    return largest;
  }
  uint64_t Used() const {
    uint64_t sum = 0;
    for (const auto& [start, size] : used_) sum += size;
    return sum;
  }

 private:
  std::vector<Region> regions_;
  std::map<uint32_t, uint32_t> used_;
};

constexpr uint32_t kOwners = 40'000;

struct Fixture {
  explicit Fixture(const std::vector<Region>& regions) : oracle(regions) {
    for (const Region& region : regions) allocator.AddRegion(region.start, region.size);
  }

  // False exactly if the oracle knows no hole that is large enough.
  bool Allocate(uint32_t owner, uint32_t size) {
    const bool fits = oracle.LargestFree() >= size;
    EXPECT_FALSE(allocator.Has(owner));
    EXPECT_EQ(allocator.Allocate(owner, size), fits) << size << " granules";
    EXPECT_EQ(allocator.Has(owner), fits);
    if (!fits) return false;
    const BlockAllocator::Block got = allocator.Get(owner);
    EXPECT_EQ(got.size, size);
    EXPECT_FALSE(oracle.Overlaps(got.start, got.size));
    EXPECT_TRUE(oracle.InOneRegion(got.start, got.size));
    oracle.Add(got.start, got.size);
    return true;
  }
  void Free(uint32_t owner) {
    oracle.Remove(allocator.Get(owner).start);
    allocator.Free(owner);
    EXPECT_FALSE(allocator.Has(owner));
  }
  void Check() const {
    EXPECT_TRUE(allocator.CheckInvariants());
    EXPECT_EQ(allocator.largest_free(), oracle.LargestFree());
    EXPECT_EQ(allocator.total_granules() - allocator.free_granules(), oracle.Used());
  }

  BlockAllocator allocator = *BlockAllocator::Create(kOwners);
  Oracle oracle;
};

TEST(BlockAllocator, EmptyHasNothing) {
  BlockAllocator allocator = *BlockAllocator::Create(1);
  EXPECT_EQ(allocator.largest_free(), 0u);
  EXPECT_FALSE(allocator.Allocate(1, 1));
  EXPECT_FALSE(allocator.Has(1));
  EXPECT_TRUE(allocator.CheckInvariants());
}

TEST(BlockAllocator, OneBlockMayTakeARegion) {
  Fixture f({{0, 1000}});
  ASSERT_TRUE(f.Allocate(7, 1000));
  EXPECT_EQ(f.allocator.largest_free(), 0u);
  EXPECT_FALSE(f.allocator.Allocate(8, 1));
  f.Free(7);
  f.Check();
  EXPECT_EQ(f.allocator.largest_free(), 1000u);
}

TEST(BlockAllocator, LargestAddressableRegion) {
  constexpr uint32_t kAll = std::numeric_limits<uint32_t>::max();
  Fixture f({{0, kAll}});
  ASSERT_TRUE(f.Allocate(1, kAll));
  f.Free(1);
  ASSERT_TRUE(f.Allocate(2, 1u << 31));
  ASSERT_TRUE(f.Allocate(3, (1u << 31) - 1));
  f.Check();
}

TEST(BlockAllocator, RegionsNeverMerge) {
  Fixture f({{0, 100}, {100, 100}, {200, 50}});
  EXPECT_FALSE(f.Allocate(1, 101));
  ASSERT_TRUE(f.Allocate(1, 100) && f.Allocate(2, 100) && f.Allocate(3, 50));
  for (const uint32_t owner : {1, 2, 3}) f.Free(owner);
  f.Check();
  EXPECT_EQ(f.allocator.largest_free(), 100u);
  EXPECT_EQ(f.allocator.free_granules(), 250u);
}

TEST(BlockAllocator, NeighboursAreKnownByTheirOwners) {
  Fixture f({{0, 100}});
  ASSERT_TRUE(f.Allocate(11, 10) && f.Allocate(22, 20) && f.Allocate(33, 70));
  EXPECT_EQ(f.allocator.Next(11), 22u);
  EXPECT_EQ(f.allocator.Next(22), 33u);
  EXPECT_EQ(f.allocator.Next(33), BlockAllocator::kNoBlock);
  EXPECT_EQ(f.allocator.Previous(33), 22u);
  EXPECT_EQ(f.allocator.Previous(11), BlockAllocator::kNoBlock);
  f.Free(22);
  const BlockId hole = f.allocator.Next(11);
  EXPECT_TRUE(BlockAllocator::IsFree(hole));
  EXPECT_EQ(f.allocator.Previous(33), hole);
  EXPECT_EQ(f.allocator.Get(hole).size, 20u);
  EXPECT_EQ(f.allocator.Previous(hole), 11u);
  EXPECT_EQ(f.allocator.Next(hole), 33u);
  f.Free(11);
  f.Free(33);
  f.Check();
  EXPECT_EQ(f.allocator.largest_free(), 100u);
}

TEST(BlockAllocator, FreeMergesInEveryOrder) {
  std::vector<uint32_t> order = {1, 2, 3, 4, 5};
  do {
    Fixture f({{10, 50}});
    for (uint32_t owner = 1; owner <= 5; ++owner) ASSERT_TRUE(f.Allocate(owner, 10));
    for (const uint32_t owner : order) {
      f.Free(owner);
      f.Check();
    }
    ASSERT_EQ(f.allocator.largest_free(), 50u);
  } while (std::next_permutation(order.begin(), order.end()));
}

// A hole must be found even if hundreds of smaller ones of the same size class come before it.
TEST(BlockAllocator, FindsTheOneThatFitsAmongNearMisses) {
  Fixture f({{0, 1'000'000}});
  ASSERT_TRUE(f.Allocate(1, 1087));  // 1024..1087 share a class
  ASSERT_TRUE(f.Allocate(2, 1));
  for (uint32_t hole = 10; hole < 410; hole += 2) {
    ASSERT_TRUE(f.Allocate(hole, 1025));
    ASSERT_TRUE(f.Allocate(hole + 1, 1));
  }
  ASSERT_TRUE(f.Allocate(3, f.allocator.largest_free()));
  f.Free(1);
  for (uint32_t hole = 10; hole < 410; hole += 2) f.Free(hole);
  f.Check();
  EXPECT_TRUE(f.Allocate(4, 1087)) << "the only hole that fits lies at the list's end";
}

TEST(BlockAllocator, MetadataIsReused) {
  Fixture f({{0, 1 << 20}});
  uint64_t peak = 0;
  for (int round = 0; round < 20; ++round) {
    for (uint32_t i = 1; i <= 1000; ++i) ASSERT_TRUE(f.allocator.Allocate(i, 1 + i % 100));
    for (uint32_t i = 1; i <= 1000; i += 2) f.allocator.Free(i);
    if (round == 0) peak = f.allocator.metadata_bytes();
    for (uint32_t i = 2; i <= 1000; i += 2) f.allocator.Free(i);
  }
  EXPECT_EQ(f.allocator.metadata_bytes(), peak);
  f.Check();
}

// Sizes that stress the class borders as well as small and uniform ones.
rc::Gen<uint32_t> AnySize() {
  return rc::gen::oneOf(
      rc::gen::inRange<uint32_t>(1, 40), rc::gen::inRange<uint32_t>(1, 5000),
      rc::gen::map(rc::gen::pair(rc::gen::inRange(0, 13), rc::gen::inRange(-1, 2)),
                   [](const std::pair<int, int>& p) {
                     return static_cast<uint32_t>(std::max(1, (1 << p.first) + p.second));
                   }));
}

RC_GTEST_PROP(BlockAllocator, AgreesWithTheOracle, ()) {
  std::vector<Region> regions;
  uint32_t at = *rc::gen::inRange<uint32_t>(0, 100);
  for (int i = *rc::gen::inRange(1, 4); i > 0; --i) {
    const auto size = *rc::gen::inRange<uint32_t>(1, 20'000);
    regions.push_back({at, size});
    at += size + *rc::gen::inRange<uint32_t>(0, 2);  // adjacent, or with a gap
  }
  Fixture f(regions);
  std::vector<uint32_t> live;  // owners
  uint32_t next_owner = 1;
  const auto steps = *rc::gen::inRange(1, 200);
  for (int step = 0; step < steps; ++step) {
    if (live.empty() || *rc::gen::inRange(0, 100) < 60) {
      const uint32_t owner = next_owner++;
      if (f.Allocate(owner, *AnySize())) live.push_back(owner);
    } else {
      const auto victim = live.begin() + *rc::gen::inRange<std::ptrdiff_t>(0, std::ssize(live));
      f.Free(*victim);
      live.erase(victim);
    }
    f.Check();
  }
  for (const uint32_t owner : live) f.Free(owner);
  f.Check();
  // Everything came together again. Largest first, since a smaller one may take a larger region.
  std::sort(regions.begin(), regions.end(),
            [](const Region& a, const Region& b) { return a.size > b.size; });
  for (const Region& region : regions) RC_ASSERT(f.allocator.Allocate(next_owner++, region.size));
  RC_ASSERT(!::testing::Test::HasFailure());
}

// The same over a long life: fragmentation has time to build up.
TEST(BlockAllocator, LongLife) {
  Fixture f({{0, 60'000}, {60'000, 60'000}});
  std::vector<uint32_t> live;
  uint64_t x = 42;
  for (int step = 0; step < 30'000; ++step) {
    x = testing::Mix(x);
    if (x % 100 < 55 || live.empty()) {
      const uint32_t size =
          1 + static_cast<uint32_t>((x >> 8) % (uint64_t{1} << (1 + (x >> 40) % 11)));
      const auto owner = static_cast<uint32_t>(step + 1);
      if (f.Allocate(owner, size)) live.push_back(owner);
    } else {
      const size_t i = (x >> 8) % live.size();
      f.Free(live[i]);
      live[i] = live.back();
      live.pop_back();
    }
    if (step % 97 == 0) f.Check();
  }
  f.Check();
  ASSERT_FALSE(HasFailure());
}

}  // namespace
}  // namespace infercache::store
