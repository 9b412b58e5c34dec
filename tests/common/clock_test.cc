#include "common/clock.h"

#include <gtest/gtest.h>

#include <ctime>

namespace infercache {
namespace {

TEST(MonotonicClock, IsPositiveAndNeverGoesBack) {
  const MonotonicClock clock;
  uint64_t last = clock.NowMs();
  EXPECT_GT(last, 0u);
  for (int i = 0; i < 100'000; ++i) {
    const uint64_t now = clock.NowMs();
    ASSERT_GE(now, last);
    last = now;
  }
}

// Readers of other processes compare an object's expiry with their own clock.
TEST(MonotonicClock, IsTheKernelsCoarseClock) {
  const MonotonicClock clock;
  const uint64_t before = clock.NowMs();
  timespec kernel{};
  ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC_COARSE, &kernel), 0);
  const uint64_t after = clock.NowMs();
  const uint64_t kernel_ms = static_cast<uint64_t>(kernel.tv_sec) * 1000 +
                             static_cast<uint64_t>(kernel.tv_nsec) / 1'000'000;
  EXPECT_LE(before, kernel_ms);
  EXPECT_GE(after, kernel_ms);
}

TEST(MonotonicClock, Advances) {
  const MonotonicClock clock;
  const uint64_t start = clock.NowMs();
  timespec began{};
  clock_gettime(CLOCK_MONOTONIC, &began);
  while (clock.NowMs() == start) {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    ASSERT_LT(now.tv_sec - began.tv_sec, 10) << "stood still for 10 s";
  }
  EXPECT_GT(clock.NowMs(), start);
}

TEST(ManualClock, MovesOnlyWhenTold) {
  ManualClock clock(5);
  EXPECT_EQ(clock.NowMs(), 5u);
  EXPECT_EQ(clock.NowMs(), 5u);
  clock.AdvanceMs(7);
  EXPECT_EQ(clock.NowMs(), 12u);
  const Clock& as_the_store_sees_it = clock;
  EXPECT_EQ(as_the_store_sees_it.NowMs(), 12u);
}

}  // namespace
}  // namespace infercache
