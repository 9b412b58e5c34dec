// How a quota is cut into chunks, and that what is allocated lies within them.

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "common/clock.h"
#include "common/fingerprint.h"
#include "server/store/space.h"
#include "server/store/store.h"

namespace infercache::store {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kTiB = uint64_t{1} << 40;

TEST(ArenaGeometry, ChunksAreWholePagesAndGranulesAndNoLargerThanAsked) {
  for (const uint64_t quota :
       {uint64_t{1}, kMiB, kMiB + 1, 2 * kMiB + 2, 37 * kMiB, kTiB, 13 * kTiB}) {
    for (const uint64_t chunk : {kMiB, kMiB + 1, 3 * kMiB + 4095, 1024 * kMiB}) {
      const ArenaGeometry g = PlanArena(quota, chunk);
      EXPECT_EQ(g.chunk_bytes % 4096, 0u);
      EXPECT_EQ(g.chunk_bytes % g.granule_bytes, 0u);
      EXPECT_LE(g.chunk_bytes, chunk);
      EXPECT_GE(g.total_bytes(), quota);
      EXPECT_LT(g.total_bytes() / g.granule_bytes, uint64_t{1} << 32);
      // A quota that was rounded up once stays as it is.
      EXPECT_EQ(PlanArena(g.total_bytes(), chunk).total_bytes(), g.total_bytes());
    }
  }
}

// A chunk size that is not a whole number of pages once put blocks beyond the end of their chunk.
TEST(ArenaGeometry, OddChunkSizesKeepObjectsApart) {
  const MonotonicClock clock;
  Store store({.capacity_bytes = 4 * kMiB, .chunk_bytes = kMiB + 1, .background = false}, clock);
  const auto ns = store.CreateNamespace({.name = "odd", .quota_bytes = 2 * kMiB + 2});
  ASSERT_TRUE(ns.ok()) << ns.status();
  constexpr size_t kBytes = 99'991;
  std::vector<WriteLease> leases;
  for (int i = 0;; ++i) {
    const std::string key = std::to_string(i);
    auto lease = (*ns)->Reserve({.id = {key, Fingerprint().hash()}, .size_bytes = kBytes});
    if (!lease.ok()) break;
    std::memset((*lease)->bytes().data(), i + 1, kBytes);
    leases.push_back(**std::move(lease));
  }
  EXPECT_GE(leases.size(), 18u);
  for (size_t i = 0; i < leases.size(); ++i) {
    for (const std::byte b : leases[i].bytes()) ASSERT_EQ(b, static_cast<std::byte>(i + 1));
  }
}

TEST(QuotaForLiveObjects, OverflowIsMoreThanAnyLimit) {
  const MonotonicClock clock;
  Store store({.background = false}, clock);
  const uint64_t quota = QuotaForLiveObjects(uint64_t{1} << 30, uint64_t{1} << 40);
  EXPECT_EQ(store.CreateNamespace({.name = "huge", .quota_bytes = quota}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// The largest max_objects costs address space, not memory.
TEST(MaxObjects, LimitItselfIsAffordable) {
  const MonotonicClock clock;
  Store store({.background = false}, clock);
  const auto ns = store.CreateNamespace(
      {.name = "many", .quota_bytes = kMiB, .max_objects = uint64_t{1} << 30});
  // Where address space is limited it is refused, which is as good.
  if (!ns.ok()) {
    EXPECT_EQ(ns.status().code(), absl::StatusCode::kResourceExhausted) << ns.status();
    return;
  }
  auto lease = (*ns)->Reserve({.id = {"k", Fingerprint().hash()}, .size_bytes = 1});
  EXPECT_TRUE(lease.ok());
}

}  // namespace
}  // namespace infercache::store
