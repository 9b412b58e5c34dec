// Belady's optimum against a search through everything that a cache could do.

#include "client/cli/belady.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <vector>

namespace infercache::cli {
namespace {

// The most prefix hits on requests of ids below 16, by trying every content after every request.
uint64_t MostHits(const std::vector<TraceRequest>& requests, int capacity) {
  std::map<uint32_t, uint64_t> best = {{0, 0}};  // content to hits so far
  for (const TraceRequest& request : requests) {
    std::map<uint32_t, uint64_t> after;
    for (const auto& [content, hits] : best) {
      uint64_t more = 0;
      while (more < request.ids.size() && (content >> request.ids[more] & 1) != 0) ++more;
      uint32_t may_keep = content;
      for (const uint64_t id : request.ids) may_keep |= uint32_t{1} << id;
      for (uint32_t kept = may_keep;; kept = (kept - 1) & may_keep) {
        if (std::popcount(kept) <= capacity) {
          uint64_t& most = after[kept];
          most = std::max(most, hits + more);
        }
        if (kept == 0) break;
      }
    }
    best = std::move(after);
  }
  uint64_t most = 0;
  for (const auto& [content, hits] : best) most = std::max(most, hits);
  return most;
}

TEST(Belady, AgreesWithASearchThroughEverything) {
  uint64_t x = 7;
  const auto random = [&x](uint64_t below) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    return (x >> 33) % below;
  };
  for (int round = 0; round < 200; ++round) {
    // Prefixes of paths in a random tree: equal ids mean equal prefixes.
    std::vector<uint64_t> parent(9);
    for (uint64_t id = 1; id < parent.size(); ++id) parent[id] = random(id);
    std::vector<TraceRequest> requests(4 + random(5));
    for (TraceRequest& request : requests) {
      for (uint64_t id = random(parent.size()); id != 0; id = parent[id]) request.ids.push_back(id);
      std::reverse(request.ids.begin(), request.ids.end());
    }
    for (int capacity = 1; capacity <= 4; ++capacity) {
      const OptimalHits hits = BeladyHits(requests, capacity);
      EXPECT_EQ(hits.prefix_blocks, MostHits(requests, capacity))
          << "round " << round << ", capacity " << capacity;
      EXPECT_EQ(hits.present_blocks, hits.prefix_blocks);
    }
  }
}

TEST(Belady, ALargeCacheHitsAllThatComesBack) {
  const std::vector<TraceRequest> requests = {
      {.ids = {1, 2, 3}}, {.ids = {1, 2, 4}}, {.ids = {5}}, {.ids = {}}, {.ids = {1, 2, 3}}};
  EXPECT_EQ(BeladyHits(requests, 100).prefix_blocks, 5u);
  EXPECT_EQ(BeladyHits({}, 100).prefix_blocks, 0u);
}

}  // namespace
}  // namespace infercache::cli
