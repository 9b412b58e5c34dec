#include "server/lifecycle.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace infercache::server {
namespace {

TEST(Lifecycle, GoesForwardOnly) {
  Lifecycle lifecycle;
  EXPECT_EQ(lifecycle.state(), Lifecycle::State::kStarting);
  lifecycle.SetServing();
  EXPECT_EQ(lifecycle.state(), Lifecycle::State::kServing);
  EXPECT_TRUE(lifecycle.RequestStop("first"));
  EXPECT_FALSE(lifecycle.RequestStop("second"));
  lifecycle.SetServing();
  EXPECT_EQ(lifecycle.state(), Lifecycle::State::kDraining);
  EXPECT_EQ(lifecycle.WaitForStop(), "first");
}

TEST(Lifecycle, IsOverdueOnceItShouldHaveEnded) {
  Lifecycle lifecycle;
  const auto now = std::chrono::steady_clock::now();
  lifecycle.RequestStop("told to");
  EXPECT_FALSE(lifecycle.Overdue(now + std::chrono::hours(1000)));
  lifecycle.EndBy(now);
  EXPECT_FALSE(lifecycle.Overdue(now));
  EXPECT_TRUE(lifecycle.Overdue(now + std::chrono::seconds(1)));
}

TEST(Lifecycle, AStopBeforeServingIsNotLost) {
  Lifecycle lifecycle;
  lifecycle.RequestStop("early");
  lifecycle.SetServing();
  EXPECT_TRUE(lifecycle.stopping());
}

TEST(Lifecycle, AWaitEndsWithItsTimeOrWithTheStop) {
  Lifecycle lifecycle;
  EXPECT_FALSE(lifecycle.WaitForStop(std::chrono::milliseconds(1)));
  std::thread stopper([&lifecycle] { lifecycle.RequestStop("told to"); });
  EXPECT_TRUE(lifecycle.WaitForStop(std::chrono::hours(1)));
  stopper.join();
}

TEST(Lifecycle, WakesTheWaiter) {
  Lifecycle lifecycle;
  std::string why;
  std::thread waiter([&lifecycle, &why] { why = lifecycle.WaitForStop(); });
  lifecycle.RequestStop("told to");
  waiter.join();
  EXPECT_EQ(why, "told to");
}

}  // namespace
}  // namespace infercache::server
