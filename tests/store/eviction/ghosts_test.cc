#include "server/store/eviction/ghosts.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <map>

namespace infercache::store {
namespace {

TEST(GhostTable, RemembersUntilTaken) {
  GhostTable ghosts;
  EXPECT_FALSE(ghosts.Take(7).has_value());
  ghosts.Add(7, {.used_ms = 70, .kind = 3, .uses = 2});
  const auto ghost = ghosts.Take(7);
  ASSERT_TRUE(ghost.has_value());
  EXPECT_EQ(ghost->used_ms, 70u);
  EXPECT_EQ(ghost->kind, 3);
  EXPECT_EQ(ghost->uses, 2);
  EXPECT_FALSE(ghosts.Take(7).has_value());
  EXPECT_EQ(ghosts.size(), 0u);
}

TEST(GhostTable, AsksWithoutTaking) {
  GhostTable ghosts;
  EXPECT_FALSE(ghosts.Holds(1, 0));
  ghosts.Add(1, {.kind = 0});
  ghosts.Add(2, {.kind = 1});
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(ghosts.Holds(1, 0));
    EXPECT_FALSE(ghosts.Holds(2, 0)) << "of another kind";
    EXPECT_TRUE(ghosts.Holds(2, 1));
    EXPECT_FALSE(ghosts.Holds(3, 0));
  }
  (void)ghosts.Take(1);
  EXPECT_FALSE(ghosts.Holds(1, 0));
}

TEST(GhostTable, ForgetsInOrder) {
  GhostTable ghosts;
  for (uint32_t i = 1; i <= 100; ++i) ghosts.Add(i * 0x9e3779b97f4a7c15u, {.used_ms = i});
  ghosts.Take(1 * 0x9e3779b97f4a7c15u);
  ghosts.Take(3 * 0x9e3779b97f4a7c15u);
  EXPECT_EQ(ghosts.TakeOldest().used_ms, 2u);
  EXPECT_EQ(ghosts.TakeOldest().used_ms, 4u);
  EXPECT_EQ(ghosts.size(), 96u);
}

TEST(GhostTable, TwoOfOneHashAreTwo) {
  GhostTable ghosts;
  ghosts.Add(7, {.used_ms = 1});
  ghosts.Add(7, {.used_ms = 2});
  EXPECT_EQ(ghosts.TakeOldest().used_ms, 1u);
  EXPECT_TRUE(ghosts.Take(7).has_value());
  EXPECT_FALSE(ghosts.Take(7).has_value());
  EXPECT_EQ(ghosts.size(), 0u);
}

TEST(GhostTable, AgreesWithAModel) {
  GhostTable ghosts;
  std::map<uint64_t, uint32_t> model;  // hash to when it was added
  std::deque<uint64_t> order;
  uint64_t x = 1;
  for (uint32_t i = 1; i < 200'000; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const uint64_t hash = (x >> 33) % 5000;  // bad hashes, all in a row
    if ((x >> 20) % 3 != 0) {
      ghosts.Take(hash);
      ghosts.Add(hash, {.used_ms = i});
      std::erase(order, hash);
      order.push_back(hash);
      model[hash] = i;
      if (order.size() > 3000) {
        EXPECT_EQ(ghosts.TakeOldest().used_ms, model[order.front()]);
        model.erase(order.front());
        order.pop_front();
      }
    } else {
      const auto ghost = ghosts.Take(hash);
      ASSERT_EQ(ghost.has_value(), model.contains(hash)) << i;
      if (ghost.has_value()) {
        EXPECT_EQ(ghost->used_ms, model[hash]);
        model.erase(hash);
        std::erase(order, hash);
      }
    }
    ASSERT_EQ(ghosts.size(), model.size());
    if (i == 5'000) i = 190'000;  // the model is slow
  }
}

// However many come and are taken: they must neither take room nor drive out the others.
TEST(GhostTable, WhatIsTakenTakesNoRoom) {
  constexpr uint64_t kLasting = 1000, kTaken = 100;
  GhostTable ghosts;
  uint64_t hash = 0;
  for (uint32_t i = 1; i <= kLasting; ++i) {
    ghosts.Add(hash += 0x9e3779b97f4a7c15u, {.used_ms = i});
    for (uint64_t taken = 0; taken < kTaken; ++taken) {
      ghosts.Add(hash += 0x9e3779b97f4a7c15u, {});
      ASSERT_TRUE(ghosts.Take(hash).has_value());
    }
  }
  EXPECT_LT(ghosts.memory_bytes(), 5 * kLasting * 24);
  ASSERT_EQ(ghosts.size(), kLasting);
  for (uint32_t i = 1; i <= kLasting; ++i) ASSERT_EQ(ghosts.TakeOldest().used_ms, i);
}

// What led to one that is forgotten leads to nothing, also when the table grows meanwhile.
TEST(GhostTable, FindsTheNewestOfAll) {
  constexpr uint64_t kGhosts = 10'000;
  GhostTable ghosts;
  for (uint64_t i = 0; i < 10 * kGhosts; ++i) {
    ghosts.Add(i * 0x9e3779b97f4a7c15u, {.used_ms = static_cast<uint32_t>(i)});
    // It grows now and then.
    while (ghosts.size() > kGhosts / 10 + i / 10) ghosts.TakeOldest();
  }
  const uint64_t forgotten = 10 * kGhosts - ghosts.size();
  for (uint64_t i = 10 * kGhosts; i-- > 0;) {
    const auto ghost = ghosts.Take(i * 0x9e3779b97f4a7c15u);
    ASSERT_EQ(ghost.has_value(), i >= forgotten) << i;
    if (ghost.has_value()) {
      EXPECT_EQ(ghost->used_ms, i);
    }
  }
  EXPECT_EQ(ghosts.size(), 0u);
}

TEST(GhostTable, ASampleIsOfAll) {
  GhostTable ghosts;
  for (uint32_t i = 0; i < 10'000; ++i) ghosts.Add(i * 0x9e3779b97f4a7c15u, {.used_ms = i});
  uint64_t sum = 0, seen = 0;
  ghosts.Sample(1000, [&](const Ghost& ghost) {
    sum += ghost.used_ms;
    ++seen;
  });
  EXPECT_LE(seen, 1000u);
  EXPECT_NEAR(static_cast<double>(seen) * ghosts.SampleWeight(1000), 10'000, 20);
  EXPECT_NEAR(static_cast<double>(sum) / static_cast<double>(seen), 5000, 50);
  uint64_t all = 0;
  ghosts.Sample(100'000, [&all](const Ghost&) { ++all; });
  EXPECT_EQ(all, 10'000u);
  EXPECT_EQ(ghosts.SampleWeight(100'000), 1);
}

}  // namespace
}  // namespace infercache::store
