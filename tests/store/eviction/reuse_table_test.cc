// What the learned index makes of what it saw: classes of blocks, ordered by what it is worth to
// keep one at some age.

#include "server/store/eviction/reuse_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace infercache::store {
namespace {

class Lessons {
 public:
  // Blocks of `uses` uses that came back at this age; that are there, or gone and remembered, at
  // it; that were lost from sight at it.
  void CameBack(uint32_t uses, uint64_t age_ms, int blocks) {
    for (int i = 0; i < blocks; ++i) table_.CountReuse(ClassOf(uses), age_ms);
  }
  void Wait(uint32_t uses, uint64_t age_ms, int blocks) { living_[CellOf(uses, age_ms)] += blocks; }
  void DroppedOut(uint32_t uses, uint64_t age_ms, int blocks) {
    for (int i = 0; i < blocks; ++i) table_.CountDropOut(ClassOf(uses), age_ms);
  }
  void Learn(double seconds_since_last = 0) {
    table_.Learn(living_, seconds_since_last);
    living_.assign(ReuseTable::kCells, 0);
  }
  // A block of so many uses goes before one of so many others, both at this age.
  bool GoesBefore(uint32_t uses, uint32_t others, uint64_t age_ms) {
    const auto& order = table_.order();
    return std::find(order.begin(), order.end(), CellOf(uses, age_ms)) <
           std::find(order.begin(), order.end(), CellOf(others, age_ms));
  }
  ReuseTable& table() { return table_; }

 private:
  int ClassOf(uint32_t uses) { return table_.ClassOf(uses, /*ends_request=*/false, /*hint=*/0); }
  int CellOf(uint32_t uses, uint64_t age_ms) {
    return ReuseTable::CellOf(ClassOf(uses), ReuseTable::BinOf(age_ms));
  }

  ReuseTable table_;
  std::vector<double> living_ = std::vector<double>(ReuseTable::kCells);
};

// As many came back in both classes; of one, nine times as many have not, until now.
TEST(ReuseTable, WhoWaitsLongerThanOthersDidNotComeBackThen) {
  Lessons lessons;
  lessons.CameBack(1, 1'000, 1000);
  lessons.CameBack(2, 1'000, 1000);
  lessons.Wait(2, 60'000, 9000);
  lessons.Learn();
  EXPECT_TRUE(lessons.GoesBefore(2, 1, 0));
  EXPECT_TRUE(lessons.GoesBefore(2, 1, 1'000));
}

TEST(ReuseTable, WhoWasLostFromSightDidNotComeBackUntilThen) {
  Lessons lessons;
  lessons.CameBack(1, 1'000, 1000);
  lessons.CameBack(2, 1'000, 1000);
  lessons.DroppedOut(2, 60'000, 9000);
  lessons.Learn();
  EXPECT_TRUE(lessons.GoesBefore(2, 1, 0));
  EXPECT_TRUE(lessons.GoesBefore(2, 1, 1'000));
}

// Blocks come back after a minute. A crowd that was stored just now has not yet, and may: worse is
// what half of did not.
TEST(ReuseTable, WhoIsTooYoungSaysNothingAboutLaterAges) {
  Lessons lessons;
  lessons.CameBack(1, 60'000, 1000);
  lessons.Wait(1, 100, 100'000);
  lessons.CameBack(2, 60'000, 1000);
  lessons.Wait(2, 200'000, 1000);
  lessons.Learn();
  EXPECT_TRUE(lessons.GoesBefore(2, 1, 60'000));
  EXPECT_TRUE(lessons.GoesBefore(2, 1, 20'000));
}

// Of one kind some come back now and the rest never, of the other all in half a minute.
TEST(ReuseTable, WhatIsDueSoonIsKeptThoughNothingOfItComesBackNow) {
  Lessons lessons;
  lessons.CameBack(1, 20'000, 100);
  lessons.Wait(1, 1'000'000, 900);
  lessons.CameBack(2, 60'000, 1000);
  lessons.Learn();
  EXPECT_TRUE(lessons.GoesBefore(1, 2, 20'000));
}

TEST(ReuseTable, AClassThatWasNeverSeenIsLikeTheOneWithFewerUses) {
  Lessons lessons;
  lessons.CameBack(1, 1'000, 1000);
  lessons.Wait(1, 1'000'000, 9000);
  lessons.CameBack(2, 1'000, 9000);
  lessons.Wait(2, 1'000'000, 1000);
  lessons.Learn();
  EXPECT_TRUE(lessons.GoesBefore(1, 2, 1'000));
  EXPECT_TRUE(lessons.GoesBefore(1, 3, 1'000));
  EXPECT_TRUE(lessons.GoesBefore(1, 7, 1'000));
}

TEST(ReuseTable, OldEvidenceFades) {
  Lessons lessons;
  lessons.CameBack(1, 1'000, 1000);
  lessons.Learn(/*seconds_since_last=*/0);
  lessons.Learn(/*seconds_since_last=*/5 * 3600);
  lessons.Wait(1, 60'000, 200);
  lessons.CameBack(2, 1'000, 100);
  lessons.Wait(2, 60'000, 100);
  lessons.Learn();
  EXPECT_TRUE(lessons.GoesBefore(1, 2, 1'000));
}

TEST(ReuseTable, OrdersByAgeAloneUntilItIsTaught) {
  Lessons lessons;
  EXPECT_FALSE(lessons.table().taught());
  const auto& order = lessons.table().order();
  ASSERT_EQ(order.size(), size_t{ReuseTable::kBaseClasses * ReuseTable::kBins});
  for (size_t i = 1; i < order.size(); ++i) {
    EXPECT_LE(order[i] % ReuseTable::kBins, order[i - 1] % ReuseTable::kBins);
  }
}

TEST(ReuseTable, IsTrainedByAThousandReuses) {
  Lessons lessons;
  lessons.CameBack(1, 1'000, 999);
  lessons.Wait(2, 1'000, 100'000);
  lessons.Learn();
  EXPECT_TRUE(lessons.table().taught());
  EXPECT_FALSE(lessons.table().trained());
  lessons.CameBack(2, 1'000, 1);
  lessons.Learn();
  EXPECT_TRUE(lessons.table().trained());
}

}  // namespace
}  // namespace infercache::store
