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
  uint64_t now_ms = 1'000'000;
  uint32_t behind = 0;
  for (uint32_t record = 1; record <= kRecords; ++record) {
    now_ms += random() % 3;
    segments.Advance(now_ms);
    const int reuse_class = random() % 100 == 0 ? 5 : static_cast<int>(random() % 3);
    const PolicyNode& before = nodes[1 + random() % record];
    const uint32_t anchor = before.list != 0 ? before.group : 0;
    const bool goes_on = anchor != 0 && random() % 3 == 0;
    const uint32_t segment = goes_on ? segments.OpenBehind(reuse_class, anchor, now_ms)
                                     : segments.Open(reuse_class, now_ms, now_ms);
    if (goes_on) {
      ++behind;
      EXPECT_EQ(segments[segment].start_ms, segments[anchor].start_ms);
      EXPECT_EQ(segments[segment].turn, segments[anchor].turn);
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
      const std::pair age = {segments[segment].start_ms, segments[segment].turn};
      ASSERT_LE(last, age) << "cell " << cell;
      last = age;
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
    segments.Advance(now_ms);
    const int reuse_class = static_cast<int>(record % 8);
    const uint32_t anchor = record > kRecords / 2 ? nodes[record - kRecords / 3].group : 0;
    put(record, anchor != 0 ? segments.OpenBehind(reuse_class, anchor, now_ms)
                            : segments.Open(reuse_class, now_ms, now_ms));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

}  // namespace
}  // namespace infercache::store
