// The order of segments in their cells, against what the header says of it.

#include "server/store/eviction/segments.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "tests/build_kind.h"

namespace infercache::store {
namespace {

// By start and turn, however far back a request goes on.
TEST(Segments, LieByAgeInEveryCell) {
  constexpr uint32_t kRecords = 20'000;
  std::vector<PolicyNode> nodes(kRecords + 1);
  Segments segments(nodes.data());
  std::mt19937 random(1);
  uint64_t now_ms = 1'000'000, advanced_ms = 0;
  uint32_t behind = 0;
  const auto age = [&segments](uint32_t segment) {
    return std::pair(segments[segment].start_ms, segments[segment].turn);
  };
  for (uint32_t record = 1; record <= kRecords; ++record) {
    now_ms += random() % 3;
    if (now_ms - advanced_ms >= 100) segments.Advance(advanced_ms = now_ms);
    const int reuse_class = random() % 100 == 0 ? 5 : static_cast<int>(random() % 3);
    const PolicyNode& before = nodes[1 + random() % record];
    const uint32_t anchor = before.list != 0 ? before.group : 0;
    const bool goes_on = anchor != 0 && random() % 3 == 0;
    const uint64_t start_ms = now_ms - (random() % 4 == 0 ? random() % 50'000 : 0);
    const uint32_t segment =
        goes_on ? segments.OpenBehind(reuse_class, anchor) : segments.Open(reuse_class, start_ms);
    if (goes_on) {
      ++behind;
      EXPECT_EQ(age(segment), age(anchor));
      const uint32_t older = segments[segment].older;
      EXPECT_TRUE(older == 0 || age(older) < age(segment)) << "it is not its turn's oldest";
    }
    segments.PushNearest(segment, record);
    segments.Close(segment);
    if (random() % 4 == 0) {
      const uint32_t leaves = 1 + random() % record;
      if (nodes[leaves].list != 0) segments.Remove(leaves);
    }
  }
  EXPECT_GT(behind, kRecords / 4);
  size_t seen = 0;
  for (int cell = 0; cell < ReuseTable::kCells; ++cell) {
    std::pair<uint64_t, uint64_t> last = {0, 0};
    while (const uint32_t segment = segments.OldestIn(cell)) {
      ASSERT_LE(last, age(segment)) << "cell " << cell;
      last = age(segment);
      segments.Remove(segments[segment].deepest);
      ++seen;
    }
  }
  EXPECT_GT(seen, kRecords / 2);
  EXPECT_EQ(segments.records(), 0u);
}

// Its place was once looked for among all segments of its cell that began later: this took 82 s.
TEST(Segments, AnOldAnchorCostsLittle) {
  constexpr uint32_t kRecords = Scaled(600'000);
  std::vector<PolicyNode> nodes(kRecords + 1);
  Segments segments(nodes.data());
  const auto put = [&](uint32_t record, uint32_t segment) {
    segments.PushNearest(segment, record);
    segments.Close(segment);
  };
  const auto start = std::chrono::steady_clock::now();
  for (uint32_t record = 1; record <= kRecords; ++record) {
    const uint64_t now_ms = 1'000'000 + record / 10;
    if (record % 1000 == 0) segments.Advance(now_ms);
    const int reuse_class = static_cast<int>(record % 8);
    const uint32_t anchor = record > kRecords / 2 ? nodes[record - kRecords / 3].group : 0;
    put(record, anchor != 0 ? segments.OpenBehind(reuse_class, anchor)
                            : segments.Open(reuse_class, now_ms));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

// Their places must not be looked for among all that is used meanwhile.
TEST(Segments, WhatComesFromAnotherPolicyCostsLittle) {
  constexpr uint32_t kRecords = Scaled(400'000);
  std::vector<PolicyNode> nodes(kRecords + 1);
  Segments segments(nodes.data());
  const auto start = std::chrono::steady_clock::now();
  segments.Advance(2'000'000);
  for (uint32_t record = 1; record <= kRecords; ++record) {
    const bool moved = record % 2 == 0;
    const uint32_t segment =
        segments.Open(static_cast<int>(record / 2 % 8), moved ? 1'000'000 + record / 4 : 2'000'000);
    segments.PushNearest(segment, record);
    segments.Close(segment);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

}  // namespace
}  // namespace infercache::store
