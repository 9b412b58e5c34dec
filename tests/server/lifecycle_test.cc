#include "server/lifecycle.h"

#include <gtest/gtest.h>

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

TEST(Lifecycle, AStopBeforeServingIsNotLost) {
  Lifecycle lifecycle;
  lifecycle.RequestStop("early");
  lifecycle.SetServing();
  EXPECT_TRUE(lifecycle.stopping());
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
