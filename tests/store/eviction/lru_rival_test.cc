// When LRU takes over from the learned index, for how long, and what it takes.

#include "server/store/eviction/lru_rival.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace infercache::store {
namespace {

constexpr double kLookSeconds = 30;

// A rival that looks at 600 blocks of an age of 10 s, 400 of 100 s and 1,000 of 400 s.
class Watched {
 public:
  explicit Watched(double capacity = 1000) : capacity_(capacity) { Look(); }

  void Look() {
    rival_.BeginLook();
    rival_.See(10'000, 600);
    rival_.See(100'000, 400);
    rival_.See(400'000, 1000);
    rival_.EndLook(capacity_, kLookSeconds);
  }
  void Use(uint64_t age_ms, bool hit, int times) {
    for (int i = 0; i < times; ++i) rival_.CountUse(age_ms, hit);
  }
  // Uses that LRU of 1,000 blocks would have hit and the index did not; and the other way round.
  void OnlyLruHits(int times) { Use(50'000, /*hit=*/false, times); }
  void OnlyTheIndexHits(int times) { Use(300'000, /*hit=*/true, times); }
  bool leads() const { return rival_.leads(); }

  // Lets LRU lead at the next look; for how long it does.
  double SecondsInTheLead() {
    OnlyLruHits(1000);
    Look();
    double seconds = 0;
    for (; leads(); seconds += kLookSeconds) Look();
    return seconds;
  }

 private:
  const double capacity_;
  LruRival rival_;
};

// What the index misses at this age, LRU would have hit.
bool LruHits(uint64_t age_ms, double capacity) {
  Watched rival(capacity);
  rival.Use(age_ms, /*hit=*/false, 100);
  rival.Look();
  return rival.leads();
}

TEST(LruRival, HitsWhatIsYoungerThanTheLatestUsedThatFit) {
  EXPECT_TRUE(LruHits(9'000, 600));
  EXPECT_FALSE(LruHits(50'000, 600));
  EXPECT_TRUE(LruHits(100'000, 800)) << "half of those of this age fit";
  EXPECT_FALSE(LruHits(105'000, 800));
  EXPECT_TRUE(LruHits(90'000, 1000));
  EXPECT_FALSE(LruHits(120'000, 1000));
  EXPECT_TRUE(LruHits(350'000, 2000));
  EXPECT_FALSE(LruHits(500'000, 2000));
  EXPECT_TRUE(LruHits(500'000, 2001)) << "there is room for all that is known";
}

TEST(LruRival, LeadsIfItWouldHaveHadMoreHits) {
  Watched rival;
  EXPECT_FALSE(rival.leads());
  rival.OnlyTheIndexHits(100);
  rival.OnlyLruHits(150);
  EXPECT_FALSE(rival.leads()) << "before it is looked at";
  rival.Look();
  EXPECT_TRUE(rival.leads());
}

TEST(LruRival, DoesNotLeadByChance) {
  Watched rival;
  rival.OnlyTheIndexHits(100);
  rival.OnlyLruHits(115);
  rival.Look();
  EXPECT_FALSE(rival.leads());
}

TEST(LruRival, HitsOfBothCountForNeither) {
  Watched rival;
  rival.Use(50'000, /*hit=*/true, 10'000);
  rival.Use(300'000, /*hit=*/false, 10'000);
  rival.Look();
  EXPECT_FALSE(rival.leads());
}

TEST(LruRival, NothingCountsBeforeTheFirstLook) {
  LruRival rival;
  const auto look = [&rival] {
    rival.BeginLook();
    rival.See(100'000, 1000);
    rival.EndLook(1000, kLookSeconds);
  };
  for (int i = 0; i < 1000; ++i) rival.CountUse(300'000, /*hit=*/true);
  look();
  for (int i = 0; i < 100; ++i) rival.CountUse(50'000, /*hit=*/false);
  look();
  EXPECT_TRUE(rival.leads());
}

TEST(LruRival, WhatCountedLongAgoFades) {
  Watched rival;
  rival.OnlyTheIndexHits(1000);
  for (double seconds = 0; seconds < 3600; seconds += kLookSeconds) rival.Look();
  rival.OnlyLruHits(20);
  rival.Look();
  EXPECT_TRUE(rival.leads());
}

TEST(LruRival, LeadsForTwiceAsLongEachTimeAtMostAnHour) {
  Watched rival;
  for (const double seconds : {300, 600, 1200, 2400, 3600, 3600}) {
    EXPECT_EQ(rival.SecondsInTheLead(), seconds);
  }
}

TEST(LruRival, LeadsForFiveMinutesAgainOnceTheIndexWasBetter) {
  Watched rival;
  EXPECT_EQ(rival.SecondsInTheLead(), 300);
  EXPECT_EQ(rival.SecondsInTheLead(), 600);
  rival.OnlyTheIndexHits(100);
  rival.Look();
  EXPECT_FALSE(rival.leads());
  EXPECT_EQ(rival.SecondsInTheLead(), 300);
}

// A few hits more are no proof: the next lead is as long as it would have been.
TEST(LruRival, LeadsForLongerIfTheIndexWasBetterByChance) {
  Watched rival;
  EXPECT_EQ(rival.SecondsInTheLead(), 300);
  rival.OnlyTheIndexHits(100);
  rival.OnlyLruHits(95);
  rival.Look();
  EXPECT_EQ(rival.SecondsInTheLead(), 600);
}

// While LRU orders, hits and misses are its own and say nothing about the index.
TEST(LruRival, TheIndexHasANewChanceAfterwards) {
  Watched rival;
  rival.OnlyLruHits(1000);
  rival.Look();
  ASSERT_TRUE(rival.leads());
  while (rival.leads()) {
    rival.OnlyLruHits(1000);
    rival.Look();
  }
  rival.Look();
  EXPECT_FALSE(rival.leads());
}

}  // namespace
}  // namespace infercache::store
