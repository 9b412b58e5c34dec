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
  const auto age = [&segments](uint32_t segment) { return segments[segment].turn; };
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
      ASSERT_TRUE(older == 0 || age(older) < age(segment)) << "it is not its turn's oldest";
    }
    segments.PushNearest(segment, record);
    segments.Close(segment);
    if (random() % 4 == 0) {
      const uint32_t leaves = 1 + random() % record;
      if (nodes[leaves].list != 0) segments.Remove(leaves);
    }
    const PolicyNode& used = nodes[1 + random() % record];
    if (random() % 4 == 0 && used.list != 0) {
      segments.Reopen(used.group, reuse_class, start_ms);
      segments.Close(used.group);
    }
  }
  EXPECT_GT(behind, kRecords / 4);
  size_t seen = 0;
  for (int cell = 0; cell < ReuseTable::kCells; ++cell) {
    Segments::Turn last;
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

// In one turn what ends its request goes first, then what has been used less often.
TEST(Segments, TheOldestGoByTurnAndClass) {
  std::vector<PolicyNode> nodes(6);
  Segments segments(nodes.data());
  const auto add = [&segments](uint32_t record, uint32_t segment) {
    segments.PushNearest(segment, record);
    segments.Close(segment);
    return segment;
  };
  EXPECT_EQ(segments.Oldest(), 0u);
  const uint32_t anchor = add(1, segments.Open(/*reuse_class=*/4, 1'000'000));
  add(2, segments.Open(1, 1'000'000));
  add(3, segments.OpenBehind(2, anchor));
  add(4, segments.OpenBehind(3, anchor));
  const uint32_t empty = segments.Open(1, 999'999);
  std::vector<uint32_t> order;
  while (const uint32_t oldest = segments.Oldest()) {
    order.push_back(segments[oldest].deepest);
    segments.Remove(order.back());
  }
  EXPECT_EQ(order, (std::vector<uint32_t>{4, 3, 1, 2}));
  segments.Close(empty);
}

TEST(Segments, AReopenedOneIsAsIfItsRecordsHadComeNow) {
  std::vector<PolicyNode> nodes(4);
  Segments segments(nodes.data());
  const uint32_t used = segments.Open(/*reuse_class=*/0, /*start_ms=*/1'000'000);
  for (const uint32_t record : {1, 2}) segments.PushNearest(used, record);
  segments.Close(used);
  const uint32_t other = segments.Open(/*reuse_class=*/0, 1'000'000);
  segments.PushNearest(other, 3);
  segments.Close(other);
  segments.Advance(1'100'000);
  const int old_cell = ReuseTable::CellOf(0, ReuseTable::BinOf(100'000));
  const int new_cell = ReuseTable::CellOf(3, 0);
  ASSERT_EQ(segments.records_in(old_cell), 3u);

  segments.Reopen(used, /*reuse_class=*/3, 1'100'000);
  EXPECT_EQ(segments.records(), 3u);
  EXPECT_EQ(segments.records_in(old_cell), 1u);
  EXPECT_EQ(segments.records_in(new_cell), 2u);
  EXPECT_EQ(segments.OldestIn(old_cell), other);
  EXPECT_EQ(segments.OldestIn(new_cell), used);
  EXPECT_EQ(segments.Oldest(), other);
  EXPECT_EQ(segments.FirstCell(0), old_cell);
  EXPECT_EQ(segments[used].nearest, 2u);
  EXPECT_EQ(segments[used].deepest, 1u);
  // Kept until it is closed, as any other.
  segments.Remove(1);
  segments.Remove(2);
  EXPECT_EQ(segments[used].size, 0u);
  EXPECT_TRUE(segments[used].kept);
  segments.Close(used);
  EXPECT_EQ(segments.Open(0, 1'100'000), used) << "it was not given back";
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

// The oldest must not be looked for among all that has gone on in its turn: this took 4.5 s.
TEST(Segments, TheOldestOfALongTurnCostsLittle) {
  constexpr uint32_t kRecords = Scaled(400'000);
  std::vector<PolicyNode> nodes(kRecords + 1);
  Segments segments(nodes.data());
  uint32_t anchor = segments.Open(/*reuse_class=*/0, 1'000'000);
  const auto start = std::chrono::steady_clock::now();
  for (uint32_t record = 1; record <= kRecords; ++record) {
    const uint32_t segment = segments.OpenBehind(static_cast<int>(record % 8), anchor);
    segments.PushNearest(segment, record);
    segments.Close(anchor);
    anchor = segment;
  }
  segments.Close(anchor);
  uint32_t seen = 0;
  while (const uint32_t oldest = segments.Oldest()) {
    segments.Remove(segments[oldest].deepest);
    ++seen;
  }
  EXPECT_EQ(seen, kRecords);
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
