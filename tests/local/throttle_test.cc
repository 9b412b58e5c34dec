#include "server/local/throttle.h"

#include <gtest/gtest.h>

namespace infercache::local {
namespace {

TEST(Throttle, TellsOfOneASecondAndHowManyItLeftOut) {
  Throttle throttle;
  const auto now = Throttle::Clock::now();
  EXPECT_EQ(throttle.Take(now), 0u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(throttle.Take(now + std::chrono::milliseconds(999)), std::nullopt);
  }
  EXPECT_EQ(throttle.Take(now + std::chrono::seconds(1)), 5u);
  EXPECT_EQ(throttle.Take(now + std::chrono::seconds(2)), 0u);
}

}  // namespace
}  // namespace infercache::local
