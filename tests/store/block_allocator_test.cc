// The allocator against an oracle: a list of what is allocated, and nothing else.

#include "server/store/block_allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
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

struct Fixture {
  explicit Fixture(const std::vector<Region>& regions) : oracle(regions) {
    for (const Region& region : regions) allocator.AddRegion(region.start, region.size);
  }

  // nullopt exactly if the oracle knows no hole that is large enough.
  std::optional<BlockId> Allocate(uint32_t size, uint32_t owner) {
    const bool fits = oracle.LargestFree() >= size;
    const auto block = allocator.Allocate(size, owner);
    EXPECT_EQ(block.has_value(), fits) << size << " granules";
    if (!block) return block;
    const BlockAllocator::Block got = allocator.Get(*block);
    EXPECT_EQ(got.size, size);
    EXPECT_EQ(got.owner, owner);
    EXPECT_FALSE(oracle.Overlaps(got.start, got.size));
    EXPECT_TRUE(oracle.InOneRegion(got.start, got.size));
    oracle.Add(got.start, got.size);
    return block;
  }
  void Free(BlockId block) {
    oracle.Remove(allocator.Get(block).start);
    allocator.Free(block);
  }
  void Check() const {
    EXPECT_TRUE(allocator.CheckInvariants());
    EXPECT_EQ(allocator.largest_free(), oracle.LargestFree());
    EXPECT_EQ(allocator.total_granules() - allocator.free_granules(), oracle.Used());
  }

  BlockAllocator allocator;
  Oracle oracle;
};

TEST(BlockAllocator, EmptyHasNothing) {
  BlockAllocator allocator;
  EXPECT_EQ(allocator.largest_free(), 0u);
  EXPECT_EQ(allocator.Allocate(1, 1), std::nullopt);
  EXPECT_TRUE(allocator.CheckInvariants());
}

TEST(BlockAllocator, OneBlockMayTakeARegion) {
  Fixture f({{0, 1000}});
  const auto block = f.Allocate(1000, 7);
  ASSERT_TRUE(block);
  EXPECT_EQ(f.allocator.largest_free(), 0u);
  EXPECT_EQ(f.allocator.Allocate(1, 8), std::nullopt);
  f.Free(*block);
  f.Check();
  EXPECT_EQ(f.allocator.largest_free(), 1000u);
}

TEST(BlockAllocator, LargestAddressableRegion) {
  constexpr uint32_t kAll = std::numeric_limits<uint32_t>::max();
  Fixture f({{0, kAll}});
  const auto block = f.Allocate(kAll, 1);
  ASSERT_TRUE(block);
  f.Free(*block);
  const auto half = f.Allocate(1u << 31, 2);
  ASSERT_TRUE(half);
  ASSERT_TRUE(f.Allocate((1u << 31) - 1, 3));
  f.Check();
}

TEST(BlockAllocator, RegionsNeverMerge) {
  Fixture f({{0, 100}, {100, 100}, {200, 50}});
  EXPECT_FALSE(f.Allocate(101, 1));
  const auto a = f.Allocate(100, 1);
  const auto b = f.Allocate(100, 2);
  const auto c = f.Allocate(50, 3);
  ASSERT_TRUE(a && b && c);
  f.Free(*a);
  f.Free(*b);
  f.Free(*c);
  f.Check();
  EXPECT_EQ(f.allocator.largest_free(), 100u);
  EXPECT_EQ(f.allocator.free_granules(), 250u);
}

TEST(BlockAllocator, NeighboursAreFoundAndKeepTheirOwners) {
  Fixture f({{0, 100}});
  const BlockId a = *f.Allocate(10, 1);
  const BlockId b = *f.Allocate(20, 2);
  const BlockId c = *f.Allocate(70, 3);
  EXPECT_EQ(f.allocator.Next(a), b);
  EXPECT_EQ(f.allocator.Next(b), c);
  EXPECT_EQ(f.allocator.Next(c), BlockAllocator::kNoBlock);
  EXPECT_EQ(f.allocator.Previous(c), b);
  EXPECT_EQ(f.allocator.Previous(a), BlockAllocator::kNoBlock);
  f.Free(b);
  const BlockId hole = f.allocator.Next(a);
  EXPECT_EQ(f.allocator.Get(hole).owner, BlockAllocator::kFree);
  EXPECT_EQ(f.allocator.Get(hole).size, 20u);
  EXPECT_EQ(f.allocator.Next(hole), c);
  f.Free(a);
  f.Free(c);
  f.Check();
  EXPECT_EQ(f.allocator.largest_free(), 100u);
}

TEST(BlockAllocator, FreeMergesInEveryOrder) {
  std::vector<int> order = {0, 1, 2, 3, 4};
  do {
    Fixture f({{10, 50}});
    std::vector<BlockId> blocks;
    for (uint32_t i = 0; i < 5; ++i) blocks.push_back(*f.Allocate(10, i + 1));
    for (const int i : order) {
      f.Free(blocks[static_cast<size_t>(i)]);
      f.Check();
    }
    ASSERT_EQ(f.allocator.largest_free(), 50u);
  } while (std::next_permutation(order.begin(), order.end()));
}

// A hole must be found even if hundreds of smaller ones of the same size class come before it.
TEST(BlockAllocator, FindsTheOneThatFitsAmongNearMisses) {
  Fixture f({{0, 1'000'000}});
  std::vector<BlockId> holes;
  const BlockId right = *f.Allocate(1087, 1);  // 1024..1087 share a class
  ASSERT_TRUE(f.Allocate(1, 2));
  for (int i = 0; i < 200; ++i) {
    holes.push_back(*f.Allocate(1025, 3));
    ASSERT_TRUE(f.Allocate(1, 4));
  }
  ASSERT_TRUE(f.Allocate(f.allocator.largest_free(), 5));
  f.Free(right);
  for (const BlockId hole : holes) f.Free(hole);
  f.Check();
  EXPECT_TRUE(f.Allocate(1087, 6)) << "the only hole that fits lies at the list's end";
}

TEST(BlockAllocator, MetadataIsReused) {
  Fixture f({{0, 1 << 20}});
  uint64_t peak = 0;
  for (int round = 0; round < 20; ++round) {
    std::vector<BlockId> blocks;
    for (uint32_t i = 0; i < 1000; ++i) blocks.push_back(*f.allocator.Allocate(1 + i % 100, 1));
    if (round == 0) peak = f.allocator.metadata_bytes();
    for (const BlockId block : blocks) f.allocator.Free(block);
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
  std::map<uint32_t, BlockId> live;  // by owner
  uint32_t next_owner = 1;
  const auto steps = *rc::gen::inRange(1, 200);
  for (int step = 0; step < steps; ++step) {
    if (live.empty() || *rc::gen::inRange(0, 100) < 60) {
      const uint32_t owner = next_owner++;
      if (const auto block = f.Allocate(*AnySize(), owner)) live.emplace(owner, *block);
    } else {
      auto victim = live.begin();
      std::advance(victim, *rc::gen::inRange<size_t>(0, live.size()));
      RC_ASSERT(f.allocator.Get(victim->second).owner == victim->first);
      f.Free(victim->second);
      live.erase(victim);
    }
    f.Check();
  }
  for (const auto& [owner, block] : live) f.Free(block);
  f.Check();
  // Everything came together again. Largest first, since a smaller one may take a larger region.
  std::sort(regions.begin(), regions.end(),
            [](const Region& a, const Region& b) { return a.size > b.size; });
  for (const Region& region : regions) RC_ASSERT(f.allocator.Allocate(region.size, 1).has_value());
  RC_ASSERT(!::testing::Test::HasFailure());
}

// The same over a long life: fragmentation has time to build up.
TEST(BlockAllocator, LongLife) {
  Fixture f({{0, 60'000}, {60'000, 60'000}});
  std::vector<BlockId> live;
  uint64_t x = 42;
  for (int step = 0; step < 30'000; ++step) {
    x = testing::Mix(x);
    if (x % 100 < 55 || live.empty()) {
      const uint32_t size =
          1 + static_cast<uint32_t>((x >> 8) % (uint64_t{1} << (1 + (x >> 40) % 11)));
      if (const auto block = f.Allocate(size, 1 + static_cast<uint32_t>(step)))
        live.push_back(*block);
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
